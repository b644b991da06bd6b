"""What the report is told of Slurm jobs, from a sacct that prints what the real one printed, or does not answer."""

import os
import time

import pytest

from amberline.cluster import accounts as module
from amberline.cluster.accounts import accounts, note_job
from slurm.stand_ins import SACCT, printing, program

MIB = 2**20


@pytest.fixture
def record(tmp_path):
    return tmp_path / "logs/slurm-jobs.jsonl"


@pytest.fixture
def sacct(tmp_path, monkeypatch):
    """Let sacct be a program of which the text is given."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    return lambda text: program(tmp_path / "bin", "sacct", text)


def submitted(record, *stages: str, name: str = "amberline_a") -> None:
    """Jobs with the numbers 1, 2, …"""
    for number, stage in enumerate(stages, 1):
        note_job(record, job=str(number), name=name, stage=stage)


def test_figures_are_those_of_the_accounts(record, sacct):
    sacct(printing(SACCT))
    submitted(record, "train ambersafe", "a", "b", "c", "d", "e", "f")
    told = accounts(record)
    assert told["missing"] is None
    assert told["jobs"][0] == {
        "stage": "train ambersafe",
        "job": "1",
        "state": "COMPLETED",
        "seconds": 9,
        "cpu_efficiency": pytest.approx(5.839 / (4 * 9)),
        "peak_memory": 328298496,
        "asked_memory": 1000 * MIB,  # on each of the two nodes
        "nodes": 2,
        "gpus": 8,
    }
    states = [(job["stage"], job["state"], job["seconds"]) for job in told["jobs"][1:]]
    assert states == [
        ("a", "REQUEUED", 6),
        ("a", "RUNNING", 3),
        ("b", "CANCELLED", 6),
        ("c", "TIMEOUT", 70),
        ("d", "FAILED", 3),
        ("e", "FAILED", 0),
        ("f", "FAILED", 0),
    ]
    *_, too_short, refused = told["jobs"]
    assert (too_short["cpu_efficiency"], too_short["peak_memory"], too_short["asked_memory"]) == (None, None, 200 * MIB)
    assert (refused["nodes"], refused["gpus"], refused["asked_memory"]) == (None, None, None)


def test_a_stage_that_was_made_again_is_told_once_with_the_failures_before_it(record, sacct):
    completed, failed = SACCT.splitlines()[0], SACCT.splitlines()[12]
    runs = [(completed, 1), (failed, 2), (completed, 3), (failed, 4)]
    sacct(printing("".join(f"{number}{row[1:]}\n" for row, number in runs)))
    submitted(record, "mix", "mix", "mix", "split")
    told = [(job["stage"], job["job"], job["state"]) for job in accounts(record)["jobs"]]
    assert told == [("mix", "2", "FAILED"), ("mix", "3", "COMPLETED"), ("split", "4", "FAILED")]


def test_a_number_that_was_another_job_once_is_not_mistaken_for_it(record, sacct):
    sacct(printing(SACCT))
    submitted(record, "mix", name="amberline_b")
    assert [job["state"] for job in accounts(record)["jobs"]] == [None]


def test_accounts_that_are_a_moment_late_are_waited_for(record, sacct, tmp_path):
    running, ended = (SACCT.splitlines()[0].replace("COMPLETED", state) for state in ("RUNNING", "COMPLETED"))
    sacct(f"#!/bin/sh\nif mkdir {tmp_path}/asked 2>/dev/null; then echo '{running}'; else echo '{ended}'; fi\n")
    submitted(record, "mix")
    assert [job["state"] for job in accounts(record)["jobs"]] == ["COMPLETED"]


@pytest.mark.parametrize(
    ("program_text", "reason"),
    [
        (
            "#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n",
            "Slurm accounting storage is disabled",
        ),
        ("#!/bin/sh\nexec sleep 600\n", "sacct did not answer within 0.3 seconds"),
        (None, "No such file or directory"),
    ],
)
def test_without_accounts_the_jobs_are_named_and_the_reason_is_told_at_once(
    record, sacct, monkeypatch, tmp_path, program_text, reason
):
    monkeypatch.setattr(module, "SECONDS", 0.3)
    if program_text is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        sacct(program_text)
    submitted(record, "mix", "split")
    before = time.monotonic()
    told = accounts(record)
    assert time.monotonic() - before < 30
    assert reason in told["missing"]
    assert [(job["stage"], job["job"], job["state"], job["peak_memory"]) for job in told["jobs"]] == [
        ("mix", "1", None, None),
        ("split", "2", None, None),
    ]


def test_a_run_without_slurm_asks_nobody(record, sacct):
    sacct("#!/bin/sh\nexit 1\n")
    assert accounts(record) == {"missing": None, "jobs": []}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:05.839", 5.839), ("02:03:04", 7384), ("1-02:03:04", 93784), ("12:00", 720)],
)
def test_times_are_read_as_slurm_writes_them(text, seconds):
    assert module._seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "size"), [("12771328", 12771328), ("320604K", 320604 * 1024), ("1.50G", 1536 * MIB)])
def test_sizes_are_read_as_slurm_writes_them(text, size):
    assert module._bytes(text) == size
