"""Raw files: fetched or local, and verified to be what the configuration says before anything reads them."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from amberline.core.digests import file_digest
from amberline.core.files import whole_file
from amberline.core.funnel import Reasons
from amberline.core.progress import progress
from amberline.data.conversations import BadRecord, WrongFile
from amberline.data.streams import BadFile, read_records
from amberline.formats.base import Format
from amberline.formats.registry import load_format
from amberline.hub.downloads import HubFile, discard, download, explained
from amberline.recipe.data import Source


class SourceError(Exception):
    """A raw file is not what the configuration says: one message with the fix."""


@dataclass
class Findings:
    """What verification found out about a raw file. `checks` says of each what was done: "verified" or not."""

    sha256: str
    bytes: int
    rows: int = 0
    rows_of_other_shape: int = 0
    checks: dict[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """For the manifest: what the file is, whatever was expected of it."""
        return {
            "bytes": self.bytes,
            "sha256": self.sha256,
            "rows": self.rows,
            "rows_of_other_shape": self.rows_of_other_shape,
        }


def acquire(name: str, source: Source, output: Path) -> Findings:
    """Put a verified raw file at `output`, atomically; return what was found.

    `name` is that of the source in the configuration, for messages. An `output` that is there already, or a copy in the
    hub's cache, is taken if it has the sha256 of the configuration. Raises SourceError, HubError, BadFile, FormatError.
    """
    if source.path is not None:
        return _copy(name, source, Path(source.path).expanduser(), output)
    for candidate in _copies(source, output):
        if source.sha256 is not None and file_digest(candidate) == source.sha256:
            if candidate == output:
                return verify_source(name, source, output, str(output))
            return _copy(name, source, candidate, output)
    return _download(name, source, output)


def _copy(name: str, source: Source, original: Path, output: Path) -> Findings:
    """Copy a file and verify the copy: that is the one that is used."""
    if not original.is_file():
        raise BadFile(original, 0, "there is no such file", f"Check sources.{name}.path.")
    with whole_file(output) as partial:
        shutil.copyfile(original, partial)
        return verify_source(name, source, partial, str(original))


def _copies(source: Source, output: Path) -> list[Path]:
    """Where the file may be already."""
    wanted = _hub_file(source)
    with explained(wanted):
        cached = try_to_load_from_cache(wanted.repository, wanted.file, revision=wanted.revision, repo_type=wanted.kind)
    places = [output, *([Path(cached)] if isinstance(cached, str) else [])]
    return [place for place in places if place.is_file()]


def _download(name: str, source: Source, output: Path) -> Findings:
    """Fetch beside `output`, verify there, and only then let the file have its name."""
    working = output.with_name(f".{output.name}.download")
    wanted = _hub_file(source)
    download(wanted, working)
    try:
        findings = verify_source(name, source, working, str(wanted))
    except (SourceError, BadFile):
        # The next attempt would find it complete, and wrong again.
        discard(working)
        raise
    with whole_file(output) as partial:
        working.replace(partial)
    discard(working)
    return findings


def _hub_file(source: Source) -> HubFile:
    assert source.repository and source.revision and source.file, "Source requires them where there is no path"
    parts = source.file.split("/")
    if not all(parts) or {".", ".."} & set(parts):
        raise SourceError(
            f"{source.file!r} is no file inside a repository. Fix: write its path there without / in front, such as "
            f"data/rows.json; a file of this machine is named by `path`."
        )
    return HubFile(source.repository, source.revision, source.file, "dataset")


def verify_source(name: str, source: Source, file: Path, called: str) -> Findings:
    """Check a file's size, sha256, number and shape of rows. Raises SourceError or BadFile, naming it as `called`."""
    format_ = load_format(source.format)
    size = file.stat().st_size
    if source.bytes is not None and size != source.bytes:
        raise SourceError(
            f"{called}: it has {size:,} bytes, but must have {source.bytes:,}. {_diagnosis(name, format_, file)}"
        )
    findings = Findings(file_digest(file), size)
    if source.sha256 is not None and findings.sha256 != source.sha256:
        raise SourceError(
            f"{called}: its sha256 is {findings.sha256}, but must be {source.sha256}. {_diagnosis(name, format_, file)}"
        )
    try:
        _count(name, source.format, file, findings)
    except BadFile as fault:
        raise BadFile(called, fault.row, fault.what, fault.fix) from None
    except SourceError as error:
        raise SourceError(f"{called}: {error}") from None
    if source.rows is not None and findings.rows != source.rows:
        raise SourceError(
            f"{called}: it has {findings.rows:,} rows, but must have {source.rows:,}. {_diagnosis(name, format_, file)}"
        )
    given = {"bytes": source.bytes, "sha256": source.sha256, "rows": source.rows}
    findings.checks = {what: "not verified" if value is None else "verified" for what, value in given.items()}
    findings.checks["schema"] = "verified"
    return findings


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
            "is it the right file, and the right format?"
        )
    if trap := _too_many(format_, findings.rows):
        raise SourceError(trap)


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
