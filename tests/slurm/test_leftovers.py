"""What a start does about an earlier one, with a queue of our own making."""

import json
import socket

import pytest

from amberline.cluster import leftovers
from amberline.cluster.leftovers import claim
from amberline.cluster.slurm import Job
from amberline.training.place import PlaceError


@pytest.fixture
def queue(monkeypatch, tmp_path):
    """Jobs in the queue: one of an earlier start here, and others."""
    jobs = [
        Job("1", "RUNNING", "amberline_3f2a", "rule_train_dpo", tmp_path),
        Job("2", "PENDING", "amberline_3f2a", "rule_mix", tmp_path / "elsewhere"),
        Job("3", "RUNNING", "amberline", "", tmp_path),  # the pipeline itself, as slurm/submit.sh starts it
        Job("4", "RUNNING", "other", "rule_train_dpo", tmp_path),
    ]
    monkeypatch.setattr(leftovers, "queued", lambda: jobs)
    monkeypatch.setattr(leftovers, "cancel", lambda left: [jobs.remove(job) for job in left])
    return jobs


def test_jobs_of_an_earlier_start_here_are_cancelled_and_no_others(tmp_path, queue):
    said = []
    claim(tmp_path, "amberline_", said.append)
    assert [job.number for job in queue] == ["2", "3", "4"]
    assert "1 (train_dpo, running)" in said[0]


def test_a_second_start_is_refused_while_the_first_one_lives(tmp_path, queue):
    lock = claim(tmp_path, "amberline_", print)
    queue.append(Job("5", "RUNNING", "amberline_77b1", "rule_mix", tmp_path))
    with pytest.raises(PlaceError, match=socket.gethostname()):
        claim(tmp_path, "amberline_", print)
    assert [job.number for job in queue] == ["2", "3", "4", "5"]
    lock.release()
    claim(tmp_path, "amberline_", print)
    assert [job.number for job in queue] == ["2", "3", "4"]


def test_locks_of_a_killed_start_are_cleared(tmp_path, queue):
    said = []
    locks = tmp_path / ".snakemake/locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").touch()
    ours = tmp_path / ".snakemake/amberline/lock.json"
    ours.parent.mkdir()
    # No process has this number: it is above the greatest that Linux gives.
    holder = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": 0.0, "slurm_job_id": None}
    ours.write_text(json.dumps(holder))
    claim(tmp_path, "amberline_", said.append)
    assert not list(locks.iterdir())
    assert "was killed" in said[0]


def test_locks_of_a_start_that_may_live_are_kept(tmp_path, queue):
    locks = tmp_path / ".snakemake/locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").touch()
    claim(tmp_path, "amberline_", print)
    assert (locks / "0.input.lock").exists()  # perhaps of a start without Slurm: Snakemake will tell
