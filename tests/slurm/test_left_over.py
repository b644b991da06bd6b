"""Trainings start as they should, whatever variables another launcher or a container's image has left behind."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.rendezvous.api import RendezvousTimeoutError

import launch
import start_ranks
from amberline.cluster.nodes import marks
from amberline.training.ranks import destroy_ranks, init_ranks
from slurm.test_launch import launch as start

LEFT = {
    "WORLD_SIZE": "2",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "192.0.2.1",
    "MASTER_PORT": "1",
    "GROUP_RANK": "1",
    "ROLE_RANK": "1",
    "TORCHELASTIC_RUN_ID": "other",
    "TORCHELASTIC_MAX_RESTARTS": "7",
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "3",
    "PET_MAX_RESTARTS": "3",
    "PET_RDZV_ENDPOINT": "192.0.2.1:1",
    "PET_NODE_RANK": "1",
    "PET_STANDALONE": "0",
    "SLURM_JOB_ID": "4711",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURMD_NODENAME": "node17",
}


@pytest.mark.parametrize("name", LEFT)
def test_the_ranks_get_no_variable_that_is_left_over(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, LEFT[name])
    environment = launch._environment(None, "cpu", 3)
    assert name not in environment
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("name", [name for name in LEFT if name.startswith("SLURM")])
def test_srun_gets_those_of_a_job_of_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, LEFT[name])
    assert launch._environment("4711", "cpu", 1)[name] == LEFT[name]


@pytest.mark.parametrize("name", [name for name in LEFT if not name.startswith("TORCHELASTIC")])
def test_a_program_by_itself_is_one_process(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in LEFT:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, LEFT[name])
    ranks = init_ranks("cpu", torch.get_num_threads())
    assert (ranks.rank, ranks.world, ranks.nodes, ranks.mesh(1)) == (0, 1, 1, None)
    destroy_ranks()


def test_a_program_by_itself_is_one_process_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a cluster's operator sets them in every container."""
    for name, value in LEFT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert init_ranks("cpu", torch.get_num_threads()).world == 1


def test_the_launcher_starts_its_ranks_among_all_of_them(tmp_path: Path) -> None:
    told = "import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'], os.environ['TORCHELASTIC_RESTART_COUNT'])"
    done = start(tmp_path, told, **LEFT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "0 1 0\n"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file in its place refuses root as well, as a read-only folder does others."""
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, start_ranks.__file__, str(tmp_path / "file/checkpoints/stage.torchrun.log"), "--", "x.py"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"start_ranks: {tmp_path}/file/checkpoints: Not a directory. Fix: check that path")
    assert "Traceback" not in done.stderr


def test_nodes_that_do_not_start_are_told_from_those_that_do(tmp_path: Path) -> None:
    here, report = socket.gethostname(), tmp_path / "stage.torchrun.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "5", "--rdzv-endpoint", f"localhost:{port}"]
    done = subprocess.run(
        [
            *(sys.executable, start_ranks.__file__, str(report), *options, "--rdzv-conf", "join_timeout=1"),
            *("--", "never.py"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"1 of 2 nodes have started ({here}), and waited in vain for the others (")
    (tmp_path / "stage.torchrun.log.on-node17").touch()
    said = start_ranks._apart(RendezvousTimeoutError(), report, 2)
    assert said.startswith(f"All 2 nodes have started ({', '.join(sorted([here, 'node17']))}), and did not find each")
    assert len(marks(report)) == 2
