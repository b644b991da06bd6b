"""What this machine has, held against what jobs ask for."""

from pathlib import Path

from amberline.cluster import machine
from amberline.recipe.hardware import Hardware
from slurm.stand_ins import printing, program

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


def test_room_on_the_disk(tmp_path):
    assert machine.too_little_room(tmp_path / "not/there", [10**6]) is None
    fault = machine.too_little_room(Path("results"), [10**18, 10**18])
    assert fault.startswith("results needs about 2,000,000,000 GB more, and ")
