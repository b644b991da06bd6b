"""The GPU benchmarks run small and on the CPU, so that they do when a GPU is lent."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import first_light
import gpu_profile
import gpu_steps
import pytest
import torch

ROOT = Path(__file__).parents[2]
GIB = 2**30


def check(program: str, output: Path, *options: str) -> dict:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / program, "--check", "--output", output, *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(output.read_text())


def test_gpu_training_checks_itself_on_the_cpu(tmp_path):
    found = check("gpu_training.py", tmp_path / "check.json", "--steps", "1", "--minutes", "60")
    chats, pairs = found["chat"], found["pairs"]
    assert {each["checkpointing"] for each in chats} == {"full", "selective", "none"}
    for size in (128, 256):
        losses = [each["losses"] for each in chats if each["tokens"] == size]
        assert len(losses) > 1
        # What is recomputed or compiled changes no loss, but for bfloat16's rounding; and the loss falls.
        assert all(each == pytest.approx(losses[0], rel=1e-3) for each in losses)
        assert losses[0][1] < losses[0][0]
    # The kernels that a GPU would use, compiled as they are there: nothing of it is lost.
    compiled = {each["kernel"]: each for each in [*chats, *pairs] if each["compile"]}
    assert compiled.keys() == {"varlen", "efficient"}
    assert all(each["graphs"] > 0 and each["graph_breaks"] == 0 for each in compiled.values())
    # Preference steps are as published, and in bfloat16.
    assert {(each["precision"], each["kernel"]) for each in pairs} == {("float32", "efficient"), ("bfloat16", "varlen")}
    assert all(each["losses"][1] < each["losses"][0] for each in pairs)
    assert {"peak_bytes", "reserved_bytes", "predicted_bytes", "predicted_step_seconds"} <= chats[0].keys()
    assert len(found["agreement"]["fastest"]["losses"]) == 20
    assert found["agreement"]["loss_apart"] < 1e-3


def test_first_light_checks_itself_on_the_cpu(tmp_path):
    """The steps that take a CPU seconds; the whole is behind a marker."""
    found = check("first_light.py", tmp_path / "check.json", "--steps", "kernels,profile")
    assert found["card"] == "CPU"
    assert all(first_light.is_right(step) for step in found["steps"].values())
    kernels = found["steps"]["kernels"]["figures"]
    assert "FlashAttention" in kernels["flash attention in float32"]["raises"]
    assert kernels["varlen bfloat16, mixed"]["kept"] == ["torch_attn._varlen_attn.default"]
    assert kernels["efficient float32, mixed"]["backward"] < 1e-5
    assert kernels["efficient float32, windowed"]["backward"] < 1e-5
    assert kernels["update, rmsprop"]["apart"] < 1e-6
    profile = found["steps"]["profile"]["figures"]["pairs"]
    assert profile["reads_a_step"] > 0
    assert sum(profile["kinds"].values()) > profile["kinds"]["all else"] > 0


@pytest.mark.sweep
def test_the_whole_of_first_light_checks_itself_on_the_cpu(tmp_path):
    steps = check("first_light.py", tmp_path / "check.json", "--minutes", "60")["steps"]
    assert list(steps) == list(first_light.LIMITS)
    assert all(first_light.is_right(step) for step in steps.values())
    demo = steps["demo"]["figures"]
    for model in ("chat", "DPO"):
        assert demo[f"{model}, killed and continued"]["killed_after"]
        assert demo[f"{model}: whole and continued"]["same_bytes"]
    assert steps["deterministic"]["figures"]["chat"]["same_losses"]
    compiled = [each for name in ("pairs", "sft") for each in steps[name]["figures"].values() if each["compile"]]
    assert {each["kernel"] for each in compiled} == {"varlen", "efficient"}


# What can be known without running it


def card(gib: float) -> SimpleNamespace:
    """One GPU with so much memory for tensors."""
    return SimpleNamespace(
        check=False, world=1, device=torch.device("cuda"), memory=gib * GIB - gpu_steps.CONTEXT_BYTES, pairs=32
    )


@pytest.mark.parametrize(("gib", "layers"), [(139.8, 32), (79.1, 16), (39.5, 8), (16, 0)])
def test_the_model_is_as_deep_as_the_card_has_room_for(gib, layers):
    assert gpu_steps.most_layers(card(gib), gpu_steps.BEST_CHAT, "chat") == layers


@pytest.mark.parametrize(("gib", "fits"), [(139.8, True), (100, False)])
def test_a_layout_that_cannot_fit_is_not_begun(gib, fits, tmp_path, monkeypatch):
    gpu_steps.llama(gpu_steps.AMBER).save_pretrained(tmp_path)
    bench = card(gib)
    bench.agreed = lambda value: value
    begun = []

    def begin(*_):
        begun.append(1)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu_steps, "started", begin)
    found = gpu_steps.measured(bench, tmp_path, "chat", gpu_steps.BEST_CHAT)
    assert begun == ([1] if fits else [])
    assert found["failed"].startswith("out of memory" if fits else "does not fit: 130 of 98 GiB")


def test_what_is_measured_first_is_what_is_published_and_likely_fastest():
    assert (gpu_steps.BEST_CHAT.checkpointing, gpu_steps.BEST_CHAT.compile) == ("selective", True)
    settings = gpu_steps.PAIRS_LAYOUT.settings("pairs")
    assert (settings.precision, settings.tf32, settings.optimizer.name) == ("float32", True, "rmsprop")
    assert settings == gpu_steps.RECIPE.training("ambersafe")
    assert replace(gpu_steps.PAIRS_LAYOUT, precision="bfloat16").settings("pairs").precision == "bfloat16"


def step(tmp_path: Path, monkeypatch, program: str, limit: float) -> list[dict]:
    """What is noted of a step that runs another program."""
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(first_light, "__file__", str(tmp_path / "program.py"))
    noted: list[dict] = []
    first_light.run_step("kernels", tmp_path, True, limit, noted.append)
    return noted


FIGURE = """
import pathlib, sys, time
place = pathlib.Path(sys.argv[sys.argv.index("--scratch") + 1]) / "kernels.jsonl"
place.write_text('{"one": {"right": true}}\\n{"two": {"ri')
"""


def test_a_step_is_killed_at_its_limit_and_keeps_its_figures(tmp_path, monkeypatch):
    noted = step(tmp_path, monkeypatch, FIGURE + "print('busy', flush=True)\ntime.sleep(600)", 3)
    assert noted[-1]["ended"] == "killed at its limit of 3 s"
    assert noted[-1]["figures"] == {"one": {"right": True}}
    assert noted[-1]["log"] == "busy\n"
    assert not first_light.is_right(noted[-1])


def test_a_step_that_dies_says_how(tmp_path, monkeypatch):
    noted = step(tmp_path, monkeypatch, FIGURE + "raise ValueError('bad card')", 60)
    assert noted[-1]["ended"] == "with 1"
    assert noted[-1]["log"].endswith("ValueError: bad card\n")
    dead = step(tmp_path, monkeypatch, f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})", 60)
    assert dead[-1]["ended"] == f"with -{int(signal.SIGSEGV)}"


def test_a_wrong_figure_makes_a_step_wrong():
    assert first_light.is_right({"ended": "well", "figures": {"rate": {}, "one": {"right": True}}})
    assert not first_light.is_right({"ended": "well", "figures": {"one": {"right": False}}})
    assert not first_light.is_right({"ended": "well", "figures": {}})


def test_steps_that_there_is_no_time_for_keep_their_earlier_figures(tmp_path, monkeypatch, capsys):
    path = tmp_path / "first_light.json"
    before = {"ended": "well", "figures": {"rate": {}}}
    first_light.write(path, {"card": "A card", "steps": {"sft": before}})

    def run_step(name, _folder, _check, limit, note):
        assert 0 < limit <= 0.06
        time.sleep(limit)
        note({"ended": "well", "figures": {"card": {"name": "A card"}}})

    monkeypatch.setattr(first_light, "run_step", run_step)
    with pytest.raises(SystemExit, match="not as it should be: sft"):
        first_light.main(path, "sft", check=True, minutes=0.001, scratch=tmp_path)
    assert "sft: not taken, for 0.001 minutes are over" in capsys.readouterr().out
    assert first_light.earlier(path, "A card")["sft"] == before


def test_steps_that_were_taken_on_the_card_before_are_kept(tmp_path):
    path = tmp_path / "first_light.json"
    assert first_light.earlier(path, "NVIDIA H200") == {}
    first_light.write(path, {"card": "NVIDIA H200", "steps": {"demo": {"ended": "well"}}})
    assert first_light.earlier(path, "NVIDIA H200") == {"demo": {"ended": "well"}}
    assert first_light.earlier(path, "NVIDIA A100") == {}
    assert first_light.slug("NVIDIA H100 80GB HBM3") == "NVIDIA-H100-80GB-HBM3"


def test_time_in_which_kernels_run_is_counted_once():
    assert gpu_profile.covered([(0, 4), (1, 2), (3, 6), (8, 9)]) == 7
