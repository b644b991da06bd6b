"""Errors of the system are one message with place and fix, wherever in a program they come up."""

import errno
import json
from pathlib import Path

import pytest

import acquire
import mix
import select_pairs
from amberline.core import files
from amberline.core.ending import explain, one_message
from amberline.core.files import whole_file, whole_folder
from amberline.data import mixing
from data.conftest import mix_settings

ROWS = [{"id": "r", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_write_that_finds_the_disk_full_names_its_place(tmp_path: Path, whole) -> None:
    with (
        pytest.raises(SystemExit) as stop,
        one_message("program", ValueError),
        whole(tmp_path / "made"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    message = str(stop.value)
    assert message.startswith(f"program: {tmp_path / 'made'}: No space left on device (")
    assert "bytes are free). Fix: free some space there" in message
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOENT, errno.EIO, None])
def test_every_error_of_the_system_has_a_fix(number: int | None) -> None:
    error = OSError("odd") if number is None else OSError(number, "odd", "/some/place")
    assert "odd. Fix: " in explain(error)
    assert number is None or explain(error).startswith("/some/place: odd")


def test_of_a_copy_the_disk_that_is_full_is_named() -> None:
    full = OSError(errno.ENOSPC, "full", "/from", None, "/to/file")
    assert explain(full).startswith("/to/file: full (")
    assert explain(OSError(errno.ENOENT, "none", "/from", None, "/to/file")).startswith("/from: none")


def test_the_mix_names_the_place_of_its_nameless_file(raw, tmp_path: Path, monkeypatch) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mixing.tempfile, "TemporaryFile", full)
    with pytest.raises(SystemExit, match=f"mix: {tmp_path / 'made' / 'mix'}: No space left"):
        programs(raw, tmp_path)["mix"]()


def programs(raw, tmp_path: Path) -> dict:
    own = raw("own.json", ROWS)
    pair = {"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 0}
    pairs = raw("pairs.json", [{**pair, "is_response_0_safe": True, "is_response_1_safe": False}])
    made = {name: tmp_path / "made" / name for name in ("funnel", "rejects")}
    nothing = dict.fromkeys(("repository", "revision", "file", "files", "bytes", "sha256", "rows", "licence"))
    return {
        "acquire": lambda: acquire.main(
            "own", json.dumps({"format": "sharegpt", "path": str(own), **nothing}), tmp_path / "made" / "raw.json"
        ),
        "mix": lambda: mix.main(
            source=[own],
            settings=json.dumps(mix_settings("sharegpt")),
            mix_file=tmp_path / "made" / "mix",
            heldout=tmp_path / "made" / "heldout",
            **made,
        ),
        "select_pairs": lambda: select_pairs.main(
            rows=[pairs],
            settings=json.dumps({"select": "exactly_one_safe", "formats": ["pku_saferlhf_v0"]}),
            pairs=tmp_path / "made" / "pairs",
            jsonl=tmp_path / "made" / "jsonl",
            **made,
        ),
    }


@pytest.mark.parametrize("program", ["acquire", "mix", "select_pairs"])
def test_a_full_disk_is_one_message(raw, tmp_path: Path, monkeypatch, program: str) -> None:
    run = programs(raw, tmp_path)[program]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.Path, "replace", full)
    with pytest.raises(SystemExit) as stop:
        run()
    assert str(stop.value).startswith(f"{program}: ") and "No space left" in str(stop.value)
    assert "Fix: free some space" in str(stop.value)
