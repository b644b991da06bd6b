import json
from collections.abc import Callable
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
