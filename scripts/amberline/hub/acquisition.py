"""Raw files: fetched or local, and verified to be what the configuration says before anything reads them."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import try_to_load_from_cache
from tqdm import tqdm

from amberline.core.digests import file_digest
from amberline.core.files import whole_file
from amberline.data.conversations import BadRecord, parse_conversation
from amberline.data.preferences import V0_COLUMNS, columns_version
from amberline.data.streams import BadFile, read_records
from amberline.hub.downloads import HubFile, discard, download, explained
from amberline.recipe.data import Source

Shape = Literal["sharegpt", "evol_instruct", "pku"]
SHAPES: Mapping[str, Shape] = {
    "sharegpt": "sharegpt",
    "evol_instruct": "evol_instruct",
    "pku_train": "pku",
    "pku_test": "pku",
}

V0_FIX = (
    "Pin revision ff7ba91063016c78a225b0f74e1c0860bb18230f and round0/train.jsonl.xz or round0/test.jsonl.xz: "
    "the hub's main branch is v1 since 2024-06."
)
# A mirror of evol-instruct V2 has 286,000 rows: two revisions of the 143,000 glued together.
GLUED_EVOL_ROWS = 250_000


class SourceError(Exception):
    """A raw file is not what the configuration says: one message with the fix."""


@dataclass
class Findings:
    """What verification found out about a raw file. `checks` says of each what was done: "verified" or not."""

    sha256: str
    bytes: int
    rows: int = 0
    rows_of_other_shape: int = 0
    version: str | None = None
    checks: dict[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """For the manifest: what the file is, whatever was expected of it."""
        facts: dict[str, Any] = {
            "bytes": self.bytes,
            "sha256": self.sha256,
            "rows": self.rows,
            "rows_of_other_shape": self.rows_of_other_shape,
        }
        if self.version:
            facts["version"] = self.version
        return facts


def acquire(name: str, source: Source, output: Path) -> Findings:
    """Put a verified raw file at `output`, atomically; return what was found.

    `name` is one of SHAPES. An `output` that is there already, or a copy in the hub's cache, is taken if it has the
    sha256 of the configuration. Raises SourceError, HubError or BadFile.
    """
    if source.path is not None:
        return _copy(name, source, Path(source.path), output)
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
    return HubFile(source.repository, source.revision, source.file, "dataset")


def verify_source(name: str, source: Source, file: Path, called: str) -> Findings:
    """Check a file's size, sha256, number of rows and columns. Raises SourceError or BadFile, naming it as `called`."""
    size = file.stat().st_size
    if source.bytes is not None and size != source.bytes:
        raise SourceError(f"{called}: it has {size:,} bytes, but must have {source.bytes:,}. {_diagnosis(name, file)}")
    findings = Findings(file_digest(file), size)
    if source.sha256 is not None and findings.sha256 != source.sha256:
        raise SourceError(
            f"{called}: its sha256 is {findings.sha256}, but must be {source.sha256}. {_diagnosis(name, file)}"
        )
    try:
        _count(name, file, findings)
    except BadFile as fault:
        raise BadFile(called, fault.row, fault.what, fault.fix) from None
    except SourceError as error:
        raise SourceError(f"{called}: {error}") from None
    if source.rows is not None and findings.rows != source.rows:
        raise SourceError(
            f"{called}: it has {findings.rows:,} rows, but must have {source.rows:,}. {_diagnosis(name, file)}"
        )
    given = {"bytes": source.bytes, "sha256": source.sha256, "rows": source.rows}
    findings.checks = {what: "not verified" if value is None else "verified" for what, value in given.items()}
    findings.checks["schema"] = "verified"
    return findings


def _count(name: str, file: Path, findings: Findings) -> None:
    """Read the file once: number of rows, and whether they have the shape that `name` must have."""
    shape = SHAPES[name]
    first_fault = ""
    for number, row in tqdm(read_records(file), desc=f"verifying {name}", unit=" rows"):
        findings.rows += 1
        fault = _fault(shape, row)
        if fault:
            findings.rows_of_other_shape += 1
            first_fault = first_fault or f"row {number}: {fault}"
        elif shape == "pku" and findings.version is None:
            findings.version = columns_version(row)
    if not findings.rows:
        raise BadFile(file, 0, "there is no row in it", "Get it again.")
    if findings.rows_of_other_shape == findings.rows:
        raise SourceError(f"no row has the shape of {name} ({first_fault}). Is it the right file?")
    if name == "evol_instruct" and findings.rows >= GLUED_EVOL_ROWS:
        raise SourceError(_glued(findings.rows))


def _fault(shape: Shape, row: Any) -> str:
    """Why a row is not of that shape; "" if it is."""
    if shape == "pku":
        if isinstance(row, dict) and columns_version(row):
            return ""
        return "columns must be " + ", ".join(V0_COLUMNS)
    try:
        parse_conversation(row, "idx" if shape == "evol_instruct" else "id")
    except BadRecord as fault:
        return f"{fault.reason}, {fault.detail}"
    return ""


def _diagnosis(name: str, file: Path) -> str:
    """What a file that is not the right one seems to be, if it is one of the known traps."""
    try:
        # The first record tells a git-LFS pointer, a web page, and which PKU-SafeRLHF it is.
        first = next(read_records(file), None)
        if SHAPES[name] == "pku" and first and isinstance(first.value, dict) and columns_version(first.value) == "v1":
            return f"Its rows are PKU-SafeRLHF v1, not v0. {V0_FIX}"
        if name == "evol_instruct" and (rows := sum(1 for _ in read_records(file))) >= GLUED_EVOL_ROWS:
            return _glued(rows)
    except BadFile as fault:
        return f"Moreover, {fault.what}. {fault.fix}"
    return f"Get it again, or correct sources.{name} in the configuration."


def _glued(rows: int) -> str:
    return (
        f"{rows:,} rows are not evol-instruct V2 (143,000), but probably the mirror in which two revisions are glued "
        "together. Use WizardLMTeam/WizardLM_evol_instruct_V2_196k."
    )
