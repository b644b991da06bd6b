"""Files as accidents leave them: other bytes, fewer bytes, other values; and what is not even a file."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amberline.core.digests import file_digest
from amberline.core.manifests import save_manifest

STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    float("nan"),
    "",
    "x",
    "\ud800",
    "../../x",
    [],
    [[]],
    {},
    {"x": 1},
]


def random_bytes(content: bytes, source: random.Random) -> bytes:
    return source.randbytes(source.choice([0, 1, 8, 300, len(content)]))


def truncated(content: bytes, source: random.Random) -> bytes:
    return content[: source.randrange(len(content) + 1)]


def bits_flipped(content: bytes, source: random.Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(source.choice([1, 1, 8])):
        if flipped:
            flipped[source.randrange(len(flipped))] ^= 1 << source.randrange(8)
    return bytes(flipped)


def zeros(content: bytes, source: random.Random) -> bytes:
    """As after a power loss: the size is there, the content is not."""
    return bytes(len(content))


def value_changed(content: bytes, source: random.Random) -> bytes:
    """A value anywhere in JSON is another one, or is not there; other files are cut."""
    try:
        lines = content.splitlines() if content.count(b"\n{") > 1 else [content]
        values = [json.loads(line) for line in lines]
    except (ValueError, UnicodeDecodeError):
        return truncated(content, source)
    if values:
        number = source.randrange(len(values))
        values[number] = _changed(values[number], source)
    return "\n".join(json.dumps(value) for value in values).encode()


def _changed(value: Any, source: random.Random) -> Any:
    if not isinstance(value, dict | list) or not value or source.random() < 0.1:
        return source.choice(STRANGE)
    key = source.choice(list(value)) if isinstance(value, dict) else source.randrange(len(value))
    if source.random() < 0.15:
        del value[key]
    else:
        value[key] = _changed(value[key], source)
    return value


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    random_bytes,
    truncated,
    bits_flipped,
    zeros,
    value_changed,
    value_changed,
]


def damage(file: Path, source: random.Random) -> str:
    """Make one file another one, and say how. Half of the time its manifest describes it as it then is."""
    if source.random() < 0.08:
        file.unlink()
        if source.random() < 0.5:
            return "removed"
        file.mkdir()
        return "made a folder"
    mutation = source.choice(MUTATIONS)
    content = mutation(file.read_bytes(), source)
    file.unlink()  # It has names elsewhere.
    file.write_bytes(content)
    # Bytes may have been bad before they were described. Other values were not: programs check what they write.
    described = mutation is not value_changed and source.random() < 0.7 and _describe(file)
    return f"{mutation.__name__}{', and described' if described else ''}"


def _describe(file: Path) -> bool:
    """Write size and sha256 into the manifest that lists the file; say whether there is one."""
    for manifest in (file.parent / "manifest.json", file.with_name(f"{file.name}.manifest.json")):
        if manifest == file or not manifest.is_file():
            continue
        values = json.loads(manifest.read_text(encoding="utf-8"))
        if file.name in values["files"]:
            values["files"][file.name] = {"bytes": file.stat().st_size, "sha256": file_digest(file)}
            save_manifest(manifest, values)
            return True
    return False
