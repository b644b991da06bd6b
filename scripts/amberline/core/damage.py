"""Whether what is on disk is still what its manifest describes, without reading files that have not been touched.

A file whose size, modification time and inode are those of a file with a known digest is not read again. A byte that
was changed under the same modification time is for `verify` to find.
"""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from amberline.core.digests import file_digest, value_digest

# Beside Snakemake's own records, and only where there are any. A line a file: inode, size, modification time in
# nanoseconds, sha256. Jobs append to it side by side; a line that is damaged is as good as none.
CACHE = Path(".snakemake/amberline/digests")
LARGEST = 4 * 2**20  # bytes of that file; beyond it is begun anew

KEYS = {"kind", "settings", "inputs", "facts", "files", "digest", "recipe"}  # of every manifest


def checksum(manifest: Mapping[str, Any]) -> str:
    """sha256 of all else in a manifest."""
    return value_digest({key: value for key, value in manifest.items() if key != "checksum"})


def is_whole(manifest: Any) -> bool:
    """Whether a manifest is as it was written. Those of earlier versions have no checksum."""
    if not (isinstance(manifest, dict) and manifest.keys() >= KEYS):
        return False
    try:
        return manifest.get("checksum") in {None, checksum(manifest)}
    except (TypeError, ValueError):  # such as half of a UTF-16 pair
        return False


def note_digests(digests: Mapping[Path, str]) -> None:
    """Remember the sha256 of files, as they are now."""
    if not CACHE.parent.parent.is_dir():
        return
    lines = [f"{_stamp(file)} {digest}\n" for file, digest in digests.items()]
    # Without a cache, files are read again: that it cannot be written is no reason to fail.
    with suppress(OSError):
        CACHE.parent.mkdir(exist_ok=True)
        too_large = CACHE.is_file() and CACHE.stat().st_size > LARGEST
        with open(CACHE, "w" if too_large else "a", encoding="utf-8") as handle:
            handle.write("".join(lines))


def find_damage(manifest: Path) -> str | None:
    """The first file that is missing or another than the manifest says, as a clause; None if all is well.

    A manifest that is missing is no damage: Snakemake sees that by itself.
    """
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if not is_whole(found):
        return f"{manifest.name} is damaged"
    described = found["files"] | found.get("beside", {})
    for name, expected in described.items():
        file = Path(os.path.normpath(manifest.parent / name))
        if not file.is_file():
            return f"{file.name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{file.name} has {file.stat().st_size:,} bytes, not {expected['bytes']:,}"
        if known_digest(file) != expected["sha256"]:
            return f"{file.name} has another content"
    return None


def damage_in(results: Path) -> str | None:
    """The first damage in a results folder, as a clause; None if all is as its manifests say."""
    for manifest in sorted(results.rglob("*manifest.json")):
        if fault := find_damage(manifest):
            return f"{manifest.parent}: {fault}"
    return None


def known_digest(file: Path) -> str:
    """sha256 of a file, which is read only if it is not the one of which that is known."""
    digest = _known(CACHE).get(_stamp(file))
    if digest is None:
        digest = _known(CACHE)[_stamp(file)] = file_digest(file)
        note_digests({file: digest})
    return digest


def _stamp(file: Path) -> str:
    status = file.stat()
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"


# Read once in a process, which adds what it finds out itself.
@cache
def _known(path: Path) -> dict[str, str]:
    try:
        return dict(_entries(path.read_text(encoding="utf-8", errors="replace").splitlines()))
    except OSError:
        return {}


def _entries(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for line in lines:
        stamp, _, digest = line.rpartition(" ")
        if len(digest) == 64 and stamp.count(" ") == 2:
            yield stamp, digest
