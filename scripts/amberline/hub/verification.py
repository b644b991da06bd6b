"""Whether raw files are what the configuration says: size, sha256, number and shape of rows."""

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from amberline.core.digests import file_digest
from amberline.core.funnel import Reasons
from amberline.core.progress import progress
from amberline.data.conversations import BadRecord, WrongFile
from amberline.data.streams import BadFile, files_of, read_records
from amberline.formats.base import Format
from amberline.formats.recognition import LOOKED_AT, recognised
from amberline.formats.registry import load_format
from amberline.recipe.data import Source
from amberline.recipe.sources_lock import Contents, SourcesLock, digest_of


class SourceError(Exception):
    """A raw file is not what the configuration says: one message with the fix."""


@dataclass
class Findings:
    """What verification found out about raw files. `unchecked`: which of bytes, sha256 and rows nobody has said."""

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
        for file in files_of(place):
            _count(name, source, file, "" if file == place else f"{file.relative_to(place)}: ", findings)
        if not findings.rows:
            raise BadFile(place, 0, "there is no row in it", "get it again.")
        if trap := _too_many(format_, findings.rows):
            raise SourceError(trap)
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


def _count(name: str, source: Source, file: Path, called: str, findings: Findings) -> None:
    """Read a file once: number of rows, and whether they have the shape of the format."""
    format_ = load_format(source.format)
    reasons = Reasons()
    rows = others = 0
    for number, row in progress(read_records(file), desc=f"verifying {name}", unit=" rows"):
        rows += 1
        try:
            format_.check(row)
        except WrongFile as fault:
            raise BadFile(file, number, fault.what, fault.fix) from None
        except BadRecord as fault:
            others += 1
            reasons.add(number, fault.reason, fault.detail)
    if rows and others == rows:
        raise SourceError(
            f"{called}no row has the shape of {source.format}, {reasons.commonest()}. Rows must be {format_.shape}. "
            f"{_looks_like(name, file)}"
        )
    findings.rows += rows
    findings.rows_of_other_shape += others


def _looks_like(name: str, file: Path) -> str:
    """Of which format a file seems to be that is not of the one that it should be."""
    found = recognised([row for _, row in islice(read_records(file), LOOKED_AT)])
    if not found:
        return f"Fix: give the right file, or the right sources.{name}.format."
    more = f" (or {', '.join(found[1:])})" if found[1:] else ""
    return f"They look like {found[0]}{more}. Fix: sources.{name}.format: {found[0]}."


def _diagnosis(name: str, format_: Format, file: Path) -> str:
    """What a file that is not the right one seems to be, if it is one of the known traps."""
    try:
        # The first record tells a git-LFS pointer, a web page, and another version of the dataset.
        first = next(read_records(file), None)
        if first and (fault := _wrong_file(format_, first.value)):
            return f"Moreover, {fault.what}. Fix: {fault.fix}"
        if format_.too_many and (trap := _too_many(format_, sum(1 for _ in read_records(file)))):
            return trap
    except BadFile as fault:
        return f"Moreover, {fault.what}. Fix: {fault.fix}"
    return f"Fix: get it again, or correct sources.{name} in the configuration."


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
