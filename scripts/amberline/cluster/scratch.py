"""Copies of token folders on a node's own disk, which all jobs on the node share.

A copy is named by the content of what it is a copy of. Whoever reads it holds a shared lock on it, which ends with the
process however that ends; a copy whose lock is free is of no use to anybody, and is removed.
"""

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from amberline.core.files import whole_folder
from amberline.core.manifests import Manifest, ManifestError, manifest_path, read_manifest, verify

# Of the folder of all copies. It is inside, because beside it, on a disk that is open to all, anybody could put a link.
LOCK = "lock"


class ScratchError(Exception):
    """No copy can be kept there."""


def node_folder(scratch: str) -> Path:
    """A configured folder with this node's variables filled in. Raises ScratchError where one of them is not set."""
    folder = os.path.expandvars(scratch)
    if "$" in folder:
        raise ScratchError(f"{scratch}: this node does not set that variable (cluster.scratch in slurm/site.yaml)")
    return Path(folder)


@contextmanager
def copies(folders: Sequence[Path], scratch: Path) -> Iterator[list[Path]]:
    """A verified copy of each folder below `scratch`, for as long as the block lasts.

    Each folder has a manifest. Raises ScratchError where there is too little room, ManifestError where a folder is
    not what its manifest says, OSError where the disk cannot be used.
    """
    home = _own_folder(scratch / f"amberline-tokens-{os.getuid()}")
    manifests = [read_manifest(folder) for folder in folders]
    kept = [home / manifest["digest"][:16] for manifest in manifests]
    with ExitStack() as held:
        with _locked(home / LOCK, fcntl.LOCK_EX):
            _remove_unused(home, but=kept)
            missing = [each for each in zip(folders, manifests, kept, strict=True) if not _is_good(each[2])]
            _check_room(home, [manifest for _, manifest, _ in missing])
            for folder, manifest, copy in missing:
                _copy(folder, manifest, copy)
            for copy in kept:
                held.enter_context(_locked(_lock_of(copy), fcntl.LOCK_SH))
        try:
            yield kept
        finally:
            held.close()
            with _locked(home / LOCK, fcntl.LOCK_EX):
                _remove_unused(home)


def _own_folder(home: Path) -> Path:
    """A folder closed to others, on a disk that is open to all. Raises ScratchError if it is not ours."""
    home.parent.mkdir(parents=True, exist_ok=True)
    home.mkdir(mode=0o700, exist_ok=True)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ScratchError(
            f"{home} is there, but others own it or may write to it: copies in it could be forged. Fix: remove it, or "
            "set cluster.scratch in slurm/site.yaml to another folder"
        )
    home.chmod(0o700)
    return home


def _is_good(copy: Path) -> bool:
    """Whether there is a copy that an earlier job left, and it is undamaged."""
    try:
        verify(copy)
    except ManifestError:
        return False
    return True


def _check_room(home: Path, manifests: Sequence[Manifest]) -> None:
    needed = sum(file["bytes"] for manifest in manifests for file in manifest["files"].values())
    free = shutil.disk_usage(home).free
    if needed > free:
        raise ScratchError(f"{home} has {free / 1e9:.1f} GB free, and the copies need {needed / 1e9:.1f} GB")


def _copy(folder: Path, manifest: Manifest, copy: Path) -> None:
    with whole_folder(copy) as partial:
        for name in manifest["files"]:
            shutil.copyfile(folder / name, partial / name)
        shutil.copyfile(manifest_path(folder), partial / manifest_path(folder).name)
        verify(partial)


def _remove_unused(home: Path, but: Sequence[Path] = ()) -> None:
    """Remove every copy that no process reads, and what killed ones left half made. Needs the lock of `home`."""
    for copy in home.iterdir():
        if copy in but or not copy.is_dir():
            continue
        with open(_lock_of(copy), "w") as handle:
            if _taken(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(copy)
                _lock_of(copy).unlink()


@contextmanager
def _locked(lock: Path, kind: int) -> Iterator[None]:
    """Hold a lock, and wait for it."""
    with open(lock, "w") as handle:
        fcntl.flock(handle, kind)
        yield


def _taken(handle: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(handle, kind)
    except BlockingIOError:
        return False
    return True


def _lock_of(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.lock")
