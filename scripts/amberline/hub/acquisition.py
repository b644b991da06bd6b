"""Raw files: fetched or local, and verified to be what the configuration says before anything reads them."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from amberline.core.digests import file_digest
from amberline.core.files import expanded, whole_file, whole_folder
from amberline.data.streams import BadFile
from amberline.hub.downloads import HubFile, discard, download, explained, list_files, put
from amberline.hub.verification import Findings, SourceError, verify_source
from amberline.recipe.data import Source
from amberline.recipe.file_patterns import local_matches, matching
from amberline.recipe.sources_lock import SourcesLock, SourcesLockError


def acquire(name: str, source: Source, output: Path, lock: SourcesLock | None = None) -> Findings:
    """Put a verified raw file, or the folder of several, at `output`, atomically; return what was found.

    `name` is that of the source in the configuration. If that says no sha256, `lock` holds what is found from now on.
    What is there already at `output`, or as a copy in the hub's cache, is not fetched again if it has the sha256 of
    either. Raises SourceError, SourcesLockError, HubError, BadFile, FormatError.
    """
    lock = lock if source.sha256 is None else None
    if source.files is not None:
        findings = _acquire_several(name, source, output, lock)
    elif source.path is not None:
        findings = _copy(name, source, expanded(source.path), output, lock)
    else:
        findings = _acquire_one(name, source, output, lock)
    if lock is not None:
        lock.hold(name, findings.contents, findings.commit)
    return findings


def _acquire_one(name: str, source: Source, output: Path, lock: SourcesLock | None) -> Findings:
    """A file of the hub."""
    wanted = _hub_file(source, source.file)
    held = list(_held(name, lock).values())
    there = _copy_there(wanted, output, source.sha256 or (held[0] if held else None))
    if there is None:
        return _download(name, source, wanted, output, lock)
    if there == output:
        return verify_source(name, source, output, str(output), lock)
    return _copy(name, source, there, output, lock)


def _held(name: str, lock: SourcesLock | None) -> Mapping[str, str]:
    """The sha256 of each file of a source that is held to what was found before."""
    contents = (lock and lock.held(name)) or {}
    return {file: content["sha256"] for file, content in contents.items()}


def _copy(name: str, source: Source, original: Path, output: Path, lock: SourcesLock | None) -> Findings:
    """Copy a file and verify the copy: that is the one that is used."""
    if not original.is_file():
        raise BadFile(original, 0, "there is no such file", f"check sources.{name}.path.")
    with whole_file(output) as partial:
        shutil.copyfile(original, partial)
        return verify_source(name, source, partial, str(original), lock)


def _copy_there(wanted: HubFile, place: Path, sha256: str | None) -> Path | None:
    """Where a file of the hub lies already: at its place, or in the hub's cache; None: it does not, or nobody can tell.

    Raises HubError.
    """
    if sha256 is None:
        return None
    with explained(wanted):
        cached = try_to_load_from_cache(wanted.repository, wanted.file, revision=wanted.revision, repo_type=wanted.kind)
    places = [place, *([Path(cached)] if isinstance(cached, str) else [])]
    return next((each for each in places if each.is_file() and file_digest(each) == sha256), None)


def _download(name: str, source: Source, wanted: HubFile, output: Path, lock: SourcesLock | None) -> Findings:
    """Fetch beside `output`, verify there, and only then let the file have its name."""
    working = _working_place(output)
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
    if source.path is None:
        return _download_several(name, source, _hub_file(source, source.files), output, lock)
    folder = expanded(source.path)
    names = _at_least_one(name, str(folder), local_matches(folder, source.files), source.files)
    with whole_folder(output) as partial:
        for each in names:
            shutil.copyfile(folder / each, _placed(partial / each))
        return verify_source(name, source, partial, str(folder), lock)


def _download_several(name: str, source: Source, wanted: HubFile, output: Path, lock: SourcesLock | None) -> Findings:
    """The files of a repository that `wanted.file` is a pattern of, all of one commit."""
    commit, names = list_files(wanted)
    names = _at_least_one(name, str(wanted), matching(names, wanted.file), wanted.file)
    held, working = _held(name, lock), _working_place(output)
    there: dict[str, Path] = {}
    for each in names:
        file = HubFile(wanted.repository, commit, each, wanted.kind)
        copy = _copy_there(file, output / each, held.get(each))
        if copy is None:
            download(file, working / each)
        there[each] = copy or working / each
    try:
        with whole_folder(output) as partial:
            for each in names:
                put(there[each], _placed(partial / each))
            findings = verify_source(name, source, partial, str(wanted), lock)
    finally:
        # What was wrong would be found complete, and wrong again, by the next attempt.
        shutil.rmtree(working, ignore_errors=True)
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
