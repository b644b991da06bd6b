"""What this machine has, held against what jobs ask for."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from amberline.cluster import machine
from amberline.recipe.hardware import Hardware
from slurm.stand_ins import printing, program

ROOT = Path(__file__).parents[2]
CUDA = Hardware(
    device="cuda",
    nodes=1,
    ranks_per_node=2,
    cpus_per_rank=1,
    memory_gb=1,
    hours=1,
    micro_batch_tokens="auto",
    attention="auto",
    activation_checkpointing="auto",
    reshard_after_forward="auto",
    compile=False,
    deterministic=False,
)
INSTALL = ".venv/bin/python -m pip install torch=="
CPU = CUDA.model_copy(update={"device": "cpu"})


def test_gpus_are_counted_and_missed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert machine.missing_gpus({"train a": CPU}) == []
    assert machine.missing_gpus({"train a": CUDA, "train b": CPU}) == [
        "train a asks for 2 GPUs (ranks_per_node), and this machine has none"
    ]
    program(tmp_path / "bin", "nvidia-smi", printing("GPU 0: A (UUID: x)\nGPU 1: A (UUID: y)\n"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert machine.count_gpus() == 2
    assert machine.missing_gpus({"train a": CUDA}) == []


def test_another_kind_and_other_versions_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.importlib.metadata, "version", lambda name: {"torch": "2.13.0+cpu"}.get(name, "1.0"))
    assert machine.other_kind("cpu") is None
    assert machine.other_kind("gpu") == "environment is gpu, and the installed torch is 2.13.0+cpu"
    lock = tmp_path / "gpu.lock"
    lock.write_text("torch===2.14.0\nnumpy==1.0\ntqdm==9\n")
    assert machine.other_versions(lock) == ["torch 2.13.0+cpu (lock: 2.14.0)"]


def test_a_driver_is_held_against_the_cuda_of_torch(monkeypatch):
    monkeypatch.setattr(machine, "torch_cuda", lambda: "13.0")
    monkeypatch.setattr(machine, "driver_cuda", lambda: (12, 8))
    fault = machine.old_driver()
    assert "supports CUDA 12.8, and the installed torch was built for CUDA 13.0, which needs driver 580" in fault
    assert f"Fix: have the driver updated, or put PyTorch's own build for CUDA 12 in its place: {INSTALL}" in fault
    monkeypatch.setattr(machine, "driver_cuda", lambda: (13, 1))
    assert machine.old_driver() is None
    monkeypatch.setattr(machine, "driver_cuda", lambda: None)
    assert machine.old_driver() is None
    monkeypatch.setattr(machine, "torch_cuda", lambda: None)
    monkeypatch.setattr(machine, "driver_cuda", lambda: (11, 4))
    assert machine.old_driver() is None


def test_the_drivers_library_says_which_cuda_it_supports(monkeypatch):
    class Driver:
        @staticmethod
        def cuDriverGetVersion(number):
            number._obj.value = 12080
            return 0

    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: Driver if name == "libcuda.so.1" else None)
    assert machine.driver_cuda() == (12, 8)
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    assert machine.driver_cuda() is None


def test_the_cuda_of_the_installed_torch_is_read_without_importing_it():
    assert machine.torch_cuda() == torch.version.cuda


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_an_installed_torch_without_cuda_is_no_environment_for_gpus():
    done = subprocess.run(
        [sys.executable, "envs/check_gpu.py"],
        cwd=ROOT,
        env={"PYTHONPATH": "scripts"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"The installed torch {torch.__version__} has no CUDA. Fix: " in done.stderr


def test_room_on_the_disk(tmp_path):
    assert machine.too_little_room(tmp_path / "not/there", [10**6]) is None
    fault = machine.too_little_room(Path("results"), [10**18, 10**18])
    assert fault.startswith("results needs about 2,000,000,000 GB more, and ")
