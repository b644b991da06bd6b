"""What goes wrong ends soon, with a message, and leaves the earlier checkpoints good."""

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ranks_in_tests import Launch, launch
from worlds import CHAT, DPO, World, changed, random_sequence, write_reference, write_sequences

from amberline.core.manifests import read_manifest, save_manifest
from amberline.data.tokens import open_tokens
from amberline.training.checkpoint_files import complete, verified

SETTINGS = changed(CHAT, epochs=4)  # 20 steps
PATIENCE = 240.0  # seconds, on a busy machine; torch would wait longer for a process that is lost


def run(world: World, folder: Path, ranks: int = 2, plant: str | None = None, **hardware: Any) -> Launch:
    arguments = world.arguments("chat", folder, SETTINGS, micro_batch_tokens=8192, **hardware)
    return launch(ranks, arguments, folder / "log", plant and f"plants:{plant}")


def failed(started: Launch) -> str:
    """Its message, after it has ended by itself."""
    began = time.monotonic()
    codes = started.wait(PATIENCE)
    assert time.monotonic() - began < PATIENCE
    assert all(code not in {0, 75} for code in codes), started.text()
    return started.text()


def finishes(started: Launch) -> str:
    assert set(started.wait()) == {0}, started.text()
    return started.text()


def directory(folder: Path) -> Path:
    (found,) = (folder / "checkpoints").glob("amberchat-*")
    return found


def assert_good_checkpoints(folder: Path, steps: list[int]) -> None:
    found = complete(directory(folder))
    assert [checkpoint.step for checkpoint in found] == steps
    assert all(verified(checkpoint) for checkpoint in found)


def test_nan_gradient_on_one_rank(world: World, tmp_path: Path) -> None:
    text = failed(run(world, tmp_path, plant="nan_gradient_on_rank_1"))
    assert text.count("amberchat: the gradient of step 9 is not finite") == 1
    assert "stopped before the update" in text
    assert "Traceback" not in text
    report = json.loads((directory(tmp_path) / "not-finite-00000009.json").read_text())
    assert len(report["examples"]) == 8
    assert {example["process"] for example in report["examples"]} == {0, 1}
    assert all(example["id"].startswith("row-") for example in report["examples"])
    # Steps 1 to 8 are in the curve, and the update of step 9 in no checkpoint.
    assert_good_checkpoints(tmp_path, [3, 6])
    assert "continuing after step 6" in finishes(run(world, tmp_path))


def test_infinite_loss(world: World, tmp_path: Path) -> None:
    text = failed(run(world, tmp_path, plant="infinite_loss_on_rank_0"))
    report = json.loads((directory(tmp_path) / "not-finite-00000009.json").read_text())
    assert len(report["not_finite"]) == 1
    assert f"the loss of step 9 is not finite (in {report['not_finite'][0]!r})" in text
    assert_good_checkpoints(tmp_path, [3, 6])


def test_a_batch_without_targets(world: World, tmp_path: Path) -> None:
    masked = write_sequences(tmp_path / "tokens", [([5, 6, 7], [-100, -100, -100])] * 16)
    text = failed(run(replace(world, conversations=masked), tmp_path))
    assert "amberchat: step 1 has nothing to learn from" in text
    assert "Traceback" not in text


def test_examples_without_targets_among_others_change_nothing(world: World, tmp_path: Path) -> None:
    """A group of them is left out of the mean of means; the step is sound."""
    import numpy as np

    rng = np.random.default_rng(0)
    rows = [random_sequence(rng, 40) for _ in range(12)] + [([5, 6, 7], [-100] * 3)] * 12
    finishes(run(replace(world, conversations=write_sequences(tmp_path / "tokens", rows)), tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert all(5 < line["loss"] < 8 for line in lines)


def test_a_corrupt_shard(world: World, tmp_path: Path) -> None:
    finishes(run(world, tmp_path))
    shutil.rmtree(directory(tmp_path) / "final")
    shard = directory(tmp_path) / "step-00000020" / "__1_0.distcp"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    text = finishes(run(world, tmp_path))
    assert "step-00000020 is damaged (__1_0.distcp is not as it was written)" in text
    assert "continuing after step 18" in text
    assert (directory(tmp_path) / "damaged-step-00000020").is_dir()
    assert_good_checkpoints(tmp_path, [18, 20])
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics


def test_a_torn_checkpoint(world: World, tmp_path: Path) -> None:
    """A folder without its marker, as a file system may leave it, and a partial one, as a kill leaves it."""
    finishes(run(world, tmp_path))
    shutil.rmtree(directory(tmp_path) / "final")
    (directory(tmp_path) / "step-00000020" / "checkpoint.json").unlink()
    shutil.copytree(directory(tmp_path) / "step-00000018", directory(tmp_path) / "step-00000019.partial-1-2")
    assert "continuing after step 18" in finishes(run(world, tmp_path))
    assert not list(directory(tmp_path).glob("*.partial*"))
    assert_good_checkpoints(tmp_path, [18, 20])


def test_files_that_cannot_grow(world: World, tmp_path: Path) -> None:
    text = failed(run(world, tmp_path, plant="files_cannot_grow"))
    assert "amberchat: the checkpoint after step 9 could not be written" in text
    assert "The earlier checkpoints are good: step-00000003, step-00000006" in text
    assert not list(directory(tmp_path).glob("*.partial*"))
    assert_good_checkpoints(tmp_path, [3, 6])
    assert "continuing after step 6" in finishes(run(world, tmp_path))


def test_a_curve_that_cannot_grow(world: World, tmp_path: Path) -> None:
    text = failed(run(world, tmp_path, plant="the_curve_cannot_grow"))
    assert "amberchat: /dev/full: No space left on device (" in text
    assert "Fix: free some space there" in text
    assert "lost touch" not in text
    assert "Traceback" not in text
    assert_good_checkpoints(tmp_path, [3, 6])
    assert "continuing after step 6" in finishes(run(world, tmp_path))


def test_no_room_for_a_checkpoint(world: World, tmp_path: Path) -> None:
    """It is not begun, so the disk is left as it is."""
    text = failed(run(world, tmp_path, plant="little_room"))
    assert "could not be written into" in text
    assert re.search(r"it needs about \d+ MiB \(0 MiB were free\).* Fix: make room on that disk", text)
    assert "Traceback" not in text
    assert_good_checkpoints(tmp_path, [])


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system can only be mounted by root; files_cannot_grow stands in")
def test_a_full_disk(world: World, tmp_path: Path) -> None:
    """A file system with room for two checkpoints and a half."""
    small = tmp_path / "checkpoints"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5500k", "tmpfs", str(small)], check=True)
    try:
        text = failed(run(world, tmp_path))
        assert "could not be written" in text
        assert "MiB were free" in text
        assert "Traceback" not in text
        found = complete(directory(tmp_path))
        assert found
        assert all(verified(checkpoint) for checkpoint in found)
        assert not list(directory(tmp_path).glob("*.partial*"))
        subprocess.run(["mount", "-o", "remount,size=50m", str(small)], check=True)
        assert f"continuing after step {found[-1].step}" in finishes(run(world, tmp_path))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_changed_dataset(world: World, tmp_path: Path) -> None:
    """Other tokens, described by their manifest: another run, and the message says why."""
    import numpy as np

    finishes(run(world, tmp_path))
    first = directory(tmp_path)
    rng = np.random.default_rng(1)
    tokens = write_sequences(tmp_path / "tokens", [random_sequence(rng, 60) for _ in range(36)])
    text = finishes(run(replace(world, conversations=tokens), tmp_path))
    assert f"because inputs.tokens changed since {first.name}" in text
    assert "continuing after" not in text


def test_rows_to_evaluate_on_that_are_not_what_their_manifest_says(world: World, tmp_path: Path) -> None:
    """They determine no weights, but they are verified all the same."""
    watched = tmp_path / "watched"
    shutil.copytree(world.conversations, watched)
    shard = watched / "shard-00000.arrow"
    shard.write_bytes(shard.read_bytes() + b"x")
    arguments = world.arguments("chat", tmp_path, SETTINGS) | {"heldout": watched}
    text = failed(launch(1, arguments, tmp_path / "log"))
    assert f"{shard} is not the file that" in text


def test_a_dataset_that_is_not_what_its_manifest_says(world: World, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    shutil.copytree(world.conversations, tokens)
    (shard,) = tokens.glob("*.arrow")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    text = failed(run(replace(world, conversations=tokens), tmp_path))
    assert "is not the file that" in text
    assert text.count("amberchat:") == 1
    assert "Traceback" not in text


def test_a_plan_that_is_not_that_of_the_checkpoint(world: World, tmp_path: Path) -> None:
    finishes(run(world, tmp_path))
    shutil.rmtree(directory(tmp_path) / "final")
    marker = directory(tmp_path) / "step-00000020" / "checkpoint.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"plan": "0" * 64}))
    assert "was made with other batches than these" in failed(run(world, tmp_path))


def test_a_killed_rank(world: World, tmp_path: Path) -> None:
    text = failed(run(world, tmp_path, plant="rank_1_is_killed"))
    assert "process 0 has lost touch with another one" in text
    assert "What is finished, checkpoints too, is good" in text
    assert_good_checkpoints(tmp_path, [3, 6])
    assert "continuing after step 6" in finishes(run(world, tmp_path))


def test_two_runs_in_one_place(world: World, tmp_path: Path) -> None:
    first = run(world, tmp_path, ranks=1, plant="slow_steps")
    while not list(tmp_path.glob("checkpoints/*/metrics.jsonl")):
        time.sleep(0.01)
    arguments = world.arguments("chat", tmp_path, SETTINGS, micro_batch_tokens=8192)
    second = launch(2, arguments, tmp_path / "second.log")
    text = failed(second)
    assert f"is in use by process {first.processes[0].pid} on " in text
    finishes(first)


def test_log_probabilities_of_another_model(world: World, tmp_path: Path) -> None:
    """Their key does not fit: refused before anything starts."""
    other = tmp_path / "model"
    shutil.copytree(world.model, other)
    manifest = json.loads((other / "manifest.json").read_text())
    save_manifest(other / "manifest.json", manifest | {"digest": "0" * 64})
    reference = write_reference(tmp_path / "reference", other, world.pairs, [(0.0, 0.0)] * 40)
    foreign = replace(world, reference=reference)
    text = failed(launch(2, foreign.arguments("dpo", tmp_path, DPO), tmp_path / "log"))
    assert "was computed with another model than this training's" in text
    assert text.count("dpo:") == 1


def test_log_probabilities_of_another_precision(world: World, tmp_path: Path) -> None:
    settings = changed(DPO, precision="bfloat16")
    text = failed(launch(1, world.arguments("dpo", tmp_path, settings), tmp_path / "log"))
    assert "was computed with another precision than this training's" in text


def test_log_probabilities_that_are_not_the_models(world: World, tmp_path: Path) -> None:
    """The key fits, the numbers do not: two of them are swapped."""
    rows = list(open_tokens(world.reference))
    logps = [(row["chosen_logp"], row["rejected_logp"]) for row in rows]
    logps[3], logps[4] = logps[4], logps[3]
    foreign = replace(world, reference=write_reference(tmp_path / "reference", world.model, world.pairs, logps))
    settings = changed(DPO, global_batch=40, partial_batch="keep")
    text = failed(launch(2, foreign.arguments("dpo", tmp_path, settings), tmp_path / "log"))
    assert "before the first step, the reference's log-probabilities differ" in text
    assert read_manifest(foreign.reference)["inputs"]["model"]["digest"] == read_manifest(world.model)["digest"]
