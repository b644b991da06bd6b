import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import HubServer
from hypothesis import settings

from amberline.provenance.manifests import write_manifest

settings.register_profile("amberline", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("amberline")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub on loopback, and an environment in which it is the only one and no time is spent waiting."""
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(time, "sleep", server.slept.append)
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()


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
