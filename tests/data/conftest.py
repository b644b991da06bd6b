import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from amberline.core.manifests import write_manifest


@pytest.fixture
def raw(tmp_path: Path) -> Callable[..., Path]:
    """Write a raw file with the manifest that `acquire` would give it."""

    def write(name: str, content: bytes | list) -> Path:
        path = tmp_path / "raw" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        write_manifest(
            path,
            kind="raw",
            files=[path],
            inputs={},
            settings={},
            facts={},
        )
        return path

    return write


def mix_settings(*formats: str, seed: int = 0, heldout: int = 0, shares: Sequence[dict] = ()) -> dict:
    """Settings of `mix.py`, as JSON; all of each source where `shares` does not say otherwise."""
    all_of_it = {"take": None, "fraction": None, "repeat": 1}
    given = [all_of_it | share for share in shares] or [all_of_it] * len(formats)
    return {"seed": seed, "heldout": heldout, "formats": list(formats), "shares": given}
