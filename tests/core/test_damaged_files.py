"""Files of our own that a power loss or an editor has damaged: as if they were not there, or named in a message."""

import json
import os
import socket
from pathlib import Path

import pytest

import launch
from amberline.cluster.accounts import accounts
from amberline.core.locks import Lock
from amberline.core.manifests import ManifestError, read_manifest, verify
from amberline.report.curves import curves
from amberline.report.page import _read
from amberline.training.checkpoint_files import MARKER, read_marker
from amberline.training.exportable import WATCHED, heldout_losses, note_watched
from amberline.training.run_directory import Identity, RunDirectoryError, allow_to_continue, kept_for
from amberline.training.staleness import Status, cost, status

DAMAGED = [b"", b"\0\0\0\0\n", b"\xff\xfe", b'{"step": 3, "pla', b"[1]", b"7", b"null", b"{}", b'"text"']


@pytest.fixture(params=DAMAGED, ids=repr)
def damaged(request, tmp_path: Path):
    """A function that writes a damaged file of a name, and returns its path."""

    def write(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(request.param)
        return path

    return write


def test_manifests(damaged) -> None:
    damaged("x.json.manifest.json")
    for read in (read_manifest, verify):
        with pytest.raises(ManifestError, match=r"x.json.manifest.json is damaged \("):
            read(damaged("x.json"))


def test_a_run_directory(damaged, tmp_path: Path) -> None:
    for name in ("identity.json", "kept.json", "refused.json", WATCHED, f"step-00000003/{MARKER}"):
        damaged(name)
    assert Identity.read(tmp_path) is None
    assert kept_for(tmp_path) in ([], [1])
    assert read_marker(tmp_path / "step-00000003") is None
    assert heldout_losses(tmp_path) == {}
    with pytest.raises(RunDirectoryError):
        allow_to_continue(tmp_path)
    note_watched(tmp_path, {"every_examples": 1, "examples": 2, "tokens": None}, 3)
    assert json.loads((tmp_path / WATCHED).read_text())["since_step"] == 3


def test_the_summary_of_a_training(damaged) -> None:
    assert cost(damaged("run.json")) == "an unknown time"
    assert status(damaged("run.json.manifest.json"), {}, {"code": "c", "packages": {}}) is Status.NONE


def test_a_lock(damaged, tmp_path: Path) -> None:
    damaged("lock.json")
    lock = Lock(tmp_path)
    assert lock.acquire() is not None
    held = lock.holder()
    assert held is not None and (held["pid"], held["host"]) == (os.getpid(), socket.gethostname())


def test_the_record_of_jobs(damaged) -> None:
    assert accounts(damaged("jobs.jsonl")) == {"missing": None, "jobs": []}


def test_the_count_of_starts(damaged) -> None:
    assert launch._idle_starts(damaged("stage.starts.json"), "5", "") == 0


def test_what_the_report_shows(damaged) -> None:
    path = damaged("metrics.jsonl")
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n\n' + path.read_bytes())
    with pytest.raises(ManifestError, match=r"metrics.jsonl is damaged \(line 2\)"):
        list(curves(path))


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff", b'{"a'])
def test_what_an_evaluation_found(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(ManifestError, match=r"metrics.json is damaged \(.*\): delete it"):
        _read(tmp_path / "metrics.json")
