"""Raw files: fetched or local, and verified to be what the configuration says before anything reads them."""

import shutil
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import try_to_load_from_cache

from amberline.core.digests import file_digest
from amberline.core.files import whole_file, whole_folder
from amberline.core.funnel import Reasons
from amberline.core.progress import progress
from amberline.data.conversations import BadRecord, WrongFile
from amberline.data.streams import BadFile, files_of, read_records
from amberline.formats.base import Format
from amberline.formats.recognition import LOOKED_AT, recognised
from amberline.formats.registry import load_format
from amberline.hub.downloads import HubFile, discard, download, explained, list_files, put
from amberline.recipe.data import Source
from amberline.recipe.file_patterns import local_matches, matching
from amberline.recipe.sources_lock import Contents, SourcesLock, SourcesLockError, digest_of


class SourceError(Exception):
    """A raw file is not what the configuration says: one message with the fix."""


@dataclass
class Findings:
    """What verification found out about raw files. `unchecked` names what nothing said what it must be."""

    contents: Contents
    rows: int = 0
    rows_of_other_shape: int = 0
    unchecked: list[str] = field(default_factory=list)
    commit: str | None = None  # of the hub, where it was asked

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(content["bytes"] for content in self.contents.values())

    @property
    def sha256(self) -> str:
        """Of one file; of several, the digest of their names and contents."""
        return digest_of(self.contents)

    def facts(self) -> dict[str, Any]:
        """For the manifest: what the files are, whatever was expected of them."""
        return {
            "bytes": self.bytes,
            "sha256": self.sha256,
            "rows": self.rows,
            "rows_of_other_shape": self.rows_of_other_shape,
        }


def acquire(name: str, source: Source, output: Path, lock: SourcesLock | None = None) -> Findings:
    """Put a verified raw file, or the folder of several, at `output`, atomically; return what was found.

    `name` is that of the source in the configuration. What is there already at `output`, or as a copy in the hub's
    cache, is taken if it has the sha256 of the configuration. If that says none, `lock` holds what is found from now
    on. Raises SourceError, SourcesLockError, HubError, BadFile, FormatError.
    """
    held = lock if source.sha256 is None else None
    if source.files is not None:
        findings = _acquire_several(name, source, output, held)
    elif source.path is not None:
        findings = _copy(name, source, Path(source.path).expanduser(), output, held)
    else:
        findings = _acquire_one(name, source, output, held)
    if held is not None:
        held.hold(name, findings.contents, findings.commit)
    return findings


def _acquire_one(name: str, source: Source, output: Path, lock: SourcesLock | None) -> Findings:
    """A file of the hub."""
    for candidate in _copies(source, output):
        if source.sha256 is not None and file_digest(candidate) == source.sha256:
            if candidate == output:
                return verify_source(name, source, output, str(output))
            return _copy(name, source, candidate, output, lock)
    return _download(name, source, output, lock)


def _copy(name: str, source: Source, original: Path, output: Path, lock: SourcesLock | None) -> Findings:
    """Copy a file and verify the copy: that is the one that is used."""
    if not original.is_file():
        raise BadFile(original, 0, "there is no such file", f"Check sources.{name}.path.")
    with whole_file(output) as partial:
        shutil.copyfile(original, partial)
        return verify_source(name, source, partial, str(original), lock)


def _copies(source: Source, output: Path) -> list[Path]:
    """Where the file may be already."""
    wanted = _hub_file(source, source.file)
    with explained(wanted):
        cached = try_to_load_from_cache(wanted.repository, wanted.file, revision=wanted.revision, repo_type=wanted.kind)
    places = [output, *([Path(cached)] if isinstance(cached, str) else [])]
    return [place for place in places if place.is_file()]


def _download(name: str, source: Source, output: Path, lock: SourcesLock | None) -> Findings:
    """Fetch beside `output`, verify there, and only then let the file have its name."""
    working = _working_place(output)
    wanted = _hub_file(source, source.file)
    commit = download(wanted, working)
    try:
        findings = verify_source(name, source, working, str(wanted), lock)
    except (SourceError, SourcesLockError, BadFile):
        # The next attempt would find it complete, and wrong again.
        discard(working)
        raise
    with whole_file(output) as partial:
        working.replace(partial)
    discard(working)
    findings.commit = commit
    return findings


def _acquire_several(name: str, source: Source, output: Path, lock: SourcesLock | None) -> Findings:
    """Files of a local folder or of a repository, in a folder."""
    assert source.files, "the caller has looked"
    if source.path is not None:
        folder = Path(source.path).expanduser()
        with whole_folder(output) as partial:
            for each in _at_least_one(name, str(folder), local_matches(folder, source.files), source.files):
                shutil.copyfile(folder / each, _placed(partial / each))
            return verify_source(name, source, partial, str(folder), lock)
    listed = _hub_file(source, source.files)
    commit, names = list_files(listed)
    working = _working_place(output)
    chosen = _at_least_one(name, str(listed), matching(names, source.files), source.files)
    for each in chosen:
        download(HubFile(listed.repository, commit, each, listed.kind), working / each)
    try:
        with whole_folder(output) as partial:
            for each in chosen:
                put(working / each, _placed(partial / each))
            findings = verify_source(name, source, partial, str(listed), lock)
    finally:
        # What was wrong would be found complete, and wrong again, by the next attempt.
        shutil.rmtree(working)
    findings.commit = commit
    return findings


def _at_least_one(name: str, where: str, found: list[str], pattern: str) -> list[str]:
    """The names that were found by a pattern. Raises SourceError if there are none."""
    if not found:
        raise SourceError(
            f"{where}: no file there is named like {pattern!r}. Fix: correct sources.{name}.files, such as "
            "data/train-*.parquet."
        )
    return found


def _placed(file: Path) -> Path:
    """A file whose folder is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _working_place(output: Path) -> Path:
    """Where a download goes on."""
    return output.with_name(f".{output.name}.download")


def _hub_file(source: Source, file: str | None) -> HubFile:
    assert source.repository and source.revision and file, "Source requires them where there is no path"
    parts = file.split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise SourceError(
            f"{file!r} is no file inside a repository. Fix: write its path there without / in front, such as "
            f"data/rows.json; a file of this machine is named by `path`."
        )
    return HubFile(source.repository, source.revision, file, "dataset")


def verify_source(name: str, source: Source, place: Path, called: str, lock: SourcesLock | None = None) -> Findings:
    """Check size, sha256, number and shape of rows of a file, or of the files of a folder.

    `called` is what they are called in messages. Raises SourceError, SourcesLockError or BadFile.
    """
    format_ = load_format(source.format)
    size = sum(file.stat().st_size for file in files_of(place))
    if source.bytes is not None and size != source.bytes:
        raise SourceError(
            f"{called}: it has {size:,} bytes, but must have {source.bytes:,}. {_diagnosis(name, format_, place)}"
        )
    findings = Findings(_contents(source, place))
    if source.sha256 is not None and findings.sha256 != source.sha256:
        raise SourceError(
            f"{called}: its sha256 is {findings.sha256}, but must be {source.sha256}. "
            f"{_diagnosis(name, format_, place)}"
        )
    if lock is not None:
        lock.check(name, findings.contents)
    try:
        _count(name, source.format, place, findings)
    except BadFile as fault:
        within = Path(fault.file).relative_to(place).as_posix()
        raise BadFile(called if within == "." else f"{called}: {within}", fault.row, fault.what, fault.fix) from None
    except SourceError as error:
        raise SourceError(f"{called}: {error}") from None
    if source.rows is not None and findings.rows != source.rows:
        raise SourceError(
            f"{called}: it has {findings.rows:,} rows, but must have {source.rows:,}. "
            f"{_diagnosis(name, format_, place)}"
        )
    given = {"bytes": source.bytes, "sha256": source.sha256 or lock, "rows": source.rows}
    given["bytes"] = given["bytes"] or given["sha256"]  # which tells it, too
    findings.unchecked = [what for what, value in given.items() if value is None]
    return findings


def _contents(source: Source, place: Path) -> Contents:
    """Bytes and sha256 of a source's files, by their names in the folder, or as the source calls its one file."""
    names = {file: file.relative_to(place).as_posix() for file in files_of(place)}
    if place.is_file():
        names = {place: PurePosixPath(source.path or source.file or place.name).name}
    return {each: {"bytes": file.stat().st_size, "sha256": file_digest(file)} for file, each in names.items()}


def _count(name: str, format_name: str, file: Path, findings: Findings) -> None:
    """Read the file once: number of rows, and whether they have the shape of the format."""
    format_ = load_format(format_name)
    reasons = Reasons()
    for number, row in progress(read_records(file), desc=f"verifying {name}", unit=" rows"):
        findings.rows += 1
        try:
            format_.check(row)
        except WrongFile as fault:
            raise BadFile(file, number, fault.what, fault.fix) from None
        except BadRecord as fault:
            findings.rows_of_other_shape += 1
            reasons.add(number, fault.reason, fault.detail)
    if not findings.rows:
        raise BadFile(file, 0, "there is no row in it", "Get it again.")
    if findings.rows_of_other_shape == findings.rows:
        raise SourceError(
            f"no row has the shape of {format_name}, {reasons.commonest()}. Rows must be {format_.shape}: "
            f"{_looks_like(name, file)}"
        )
    if trap := _too_many(format_, findings.rows):
        raise SourceError(trap)


def _looks_like(name: str, file: Path) -> str:
    """Of which format a file seems to be that is not of the one that it should be."""
    found = recognised([row for _, row in islice(read_records(file), LOOKED_AT)])
    if not found:
        return "is it the right file, and the right format?"
    more = f" (or {', '.join(found[1:])})" if found[1:] else ""
    return f"they look like {found[0]}{more}. Fix: sources.{name}.format: {found[0]}."


def _diagnosis(name: str, format_: Format, file: Path) -> str:
    """What a file that is not the right one seems to be, if it is one of the known traps."""
    try:
        # The first record tells a git-LFS pointer, a web page, and another version of the dataset.
        first = next(read_records(file), None)
        if first and (fault := _wrong_file(format_, first.value)):
            return f"Moreover, {fault.what}. {fault.fix}"
        if format_.too_many and (trap := _too_many(format_, sum(1 for _ in read_records(file)))):
            return trap
    except BadFile as fault:
        return f"Moreover, {fault.what}. {fault.fix}"
    return f"Get it again, or correct sources.{name} in the configuration."


def _wrong_file(format_: Format, row: Any) -> WrongFile | None:
    """What a row tells of its whole file, if it is another than it was taken for."""
    try:
        format_.check(row)
    except WrongFile as fault:
        return fault
    except BadRecord:
        pass
    return None


def _too_many(format_: Format, rows: int) -> str | None:
    """What a file of so many rows probably is, if it is a known trap."""
    trap = format_.too_many
    return f"{rows:,} rows are {trap.what}" if trap and rows >= trap.rows else None
