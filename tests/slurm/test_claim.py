"""What a start does about an earlier one, and about somebody else's, with a queue of our own making."""

import getpass
import json
import os
import pwd
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from amberline.cluster import claim as claiming
from amberline.cluster.accounts import RECORD
from amberline.cluster.claim import VARIABLE, ClaimError, claim, name_prefix
from amberline.cluster.slurm import Job, NoAnswer, SlurmError

ME = getpass.getuser()
# No process has this number: it is above the greatest that Linux gives.
DEAD = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": "boot:0", "slurm_job_id": None}


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    """A working directory, in which jobs have been submitted before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "")
    record = tmp_path / "results" / RECORD
    record.parent.mkdir(parents=True)
    record.touch()
    return tmp_path


@pytest.fixture
def results(checkout) -> Path:
    return checkout / "results"


@pytest.fixture(autouse=True)
def queue(monkeypatch, results):
    """Jobs in the queue: one of an earlier start, and others."""
    jobs = [
        Job("1", "RUNNING", f"{name_prefix(results)}_3f2a", "rule_train_wildcards_ambersafe", ME),
        Job("2", "PENDING", f"{name_prefix(results / 'others')}_3f2a", "rule_mix", ME),
        Job("3", "RUNNING", "amberline", "", ME),  # the pipeline itself, as slurm/submit.sh starts it
        Job("4", "RUNNING", "other", "rule_train_wildcards_ambersafe", ME),
    ]
    monkeypatch.setattr(claiming.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(claiming, "queued", lambda: jobs)
    monkeypatch.setattr(claiming, "cancel", lambda left: [jobs.remove(job) for job in left])
    return jobs


def test_jobs_of_an_earlier_start_are_cancelled_and_no_others(results, queue):
    said = []
    claim(results, said.append)
    assert [job.number for job in queue] == ["2", "3", "4"]
    assert "1 (train ambersafe, running)" in said[0]


def test_jobs_are_known_from_any_clone_of_the_project(results, queue, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(results)
    (tmp_path / "clone").mkdir()
    monkeypatch.chdir(tmp_path / "clone")
    claim(Path("../link"), print)
    assert [job.number for job in queue] == ["2", "3", "4"]


def test_jobs_of_somebody_else_are_not_overtaken(results, queue):
    queue.append(Job("5", "RUNNING", f"{name_prefix(results)}_77b1", "rule_mix", "anna"))
    with pytest.raises(ClaimError, match=r"jobs of anna still write to .*: 5 \(mix, running\).*scancel 5"):
        claim(results, print)
    claiming.queued().pop()
    claim(results, print)  # the refused start holds no lock


def test_without_an_answer_nothing_is_started_if_there_may_be_jobs(results, monkeypatch):
    def silent():
        raise NoAnswer("squeue: Unable to contact slurm controller")

    monkeypatch.setattr(claiming, "queued", silent)
    with pytest.raises(SlurmError, match=r"may still write to .*, so nothing was started\. Fix: type the same command"):
        claim(results, print)
    (results / RECORD).unlink()
    claim(results, print)  # no job was ever submitted for these results


@pytest.mark.parametrize("commands", [None, "squeue: error: fetch_config: DNS SRV lookup failed"])
def test_results_of_a_cluster_can_be_used_on_a_machine_without_one(results, monkeypatch, commands):
    def unknown():
        raise SlurmError(commands)

    monkeypatch.setattr(claiming, "queued", unknown)
    monkeypatch.setattr(claiming.shutil, "which", lambda name: commands and "/usr/bin/squeue")
    claim(results, print)


def test_a_second_start_is_told_who_holds_the_folder(results):
    lock = claim(results, print)
    with pytest.raises(ClaimError) as told:
        claim(results, print)
    pattern = rf"results is in use by process {os.getpid()} on {socket.gethostname()} \(user {ME}, since 20"
    assert told.match(pattern)
    assert told.match(r"Fix: wait for it, or stop it")
    lock.release()
    claim(results, print)


def test_locks_of_a_killed_start_are_cleared(results, tmp_path):
    said = []
    locks = tmp_path / ".snakemake/locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").touch()
    (results / "pipeline.lock.json").write_text(json.dumps(DEAD | {"folder": str(tmp_path)}))
    claim(results, said.append)
    assert not list(locks.iterdir())
    assert "was killed" in said[0]


def test_locks_of_another_clone_and_of_a_start_that_may_live_are_kept(results, tmp_path):
    locks = tmp_path / ".snakemake/locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").touch()
    (results / "pipeline.lock.json").write_text(json.dumps(DEAD | {"folder": "/another/clone"}))
    claim(results, print).release()
    claim(results, print).release()
    assert (locks / "0.input.lock").exists()  # Snakemake will tell


def test_programs_that_a_killed_pipeline_left_are_ended(results):
    environment = {name: value for name, value in os.environ.items() if name != "SLURM_JOB_ID"}
    waits = [sys.executable, "-c", "import time; time.sleep(60)"]
    of_ours = subprocess.Popen(waits, env={**environment, VARIABLE: str(results)})
    others = subprocess.Popen(waits, env={**environment, VARIABLE: "/other/results"})
    of_slurm = subprocess.Popen(waits, env={**environment, VARIABLE: str(results), "SLURM_JOB_ID": "5"})
    try:
        time.sleep(0.5)  # until the environments are theirs
        said = []
        claim(results, said.append)
        assert str(of_ours.pid) in said[0]
        of_ours.wait(5)
        assert others.poll() is None
        assert of_slurm.poll() is None
    finally:
        for process in (of_ours, others, of_slurm):
            process.kill()
            process.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("folder", [".snakemake", ".snakemake/metadata", "results", "."])
def test_a_folder_of_somebody_else_is_named_with_its_owner(folder, monkeypatch):
    # pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory() as closed:
        checkout = Path(closed)
        monkeypatch.chdir(checkout)
        (checkout / "results").mkdir()
        if folder != ".":
            (checkout / ".snakemake/metadata").mkdir(parents=True)
        for path in (checkout, *checkout.rglob("*")):
            path.chmod(0o777)
        (checkout / folder).chmod(0o755)
        said = as_nobody(lambda: claim(Path("results"), print))
        monkeypatch.undo()
    assert said.startswith(f"ClaimError: {checkout / folder} belongs to root, and nobody may not write there. Fix: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_holds_a_folder_is_told_to_those_who_may_not_write_there(monkeypatch):
    with tempfile.TemporaryDirectory() as closed:
        monkeypatch.chdir(closed)
        Path(closed).chmod(0o777)
        lock = claim(Path("results"), print)
        said = as_nobody(lambda: claim(Path("results"), print))
        lock.release()
        monkeypatch.undo()
    assert f"results is in use by user {ME} (process {os.getpid()} on {socket.gethostname()}, since 20" in said
    assert "results belongs to root, and nobody may not write there" in said


def as_nobody(act) -> str:
    """What an action of another user raises."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(pwd.getpwnam("nobody").pw_uid)
            os.environ["LOGNAME"] = "nobody"
            act()
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading) as told:
        return told.read()


def test_the_claim_ends_with_its_process_whatever_the_clock_says(results):
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from pathlib import Path; from amberline.core.locks import Lock\n"
            "Lock(Path(sys.argv[2]), 'pipeline.lock.json').acquire(); print('held', flush=True); sys.stdin.read()\n",
            *(str(Path(__file__).parents[2] / "scripts"), str(results)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ClaimError):
        claim(results, print)
    holder.kill()  # and nobody has waited for it yet: the process is still listed
    time.sleep(0.2)
    claim(results, print)
    holder.wait()
