"""What is concluded from what Slurm says, or does not say; with stand-ins for its commands."""

import asyncio
import os
import sys
import time
from pathlib import Path
from threading import Event, Timer
from types import SimpleNamespace

import pytest

from amberline.cluster import logs, requests, slurm, submission
from amberline.cluster.executor import WatchfulExecutor
from amberline.cluster.ledger import Stages
from amberline.cluster.requests import Nodes, Request, misfits, request_of, why_never, why_refused
from amberline.cluster.slurm import Job, NoAnswer, Outage, SlurmError, ask, queued
from amberline.cluster.status import waiting_for, with_progress
from amberline.cluster.submission import Refused, Stopped, submit
from amberline.core import progress
from slurm.stand_ins import program

FITS = Request("hardware.sft", "gpu", 1, 64, 480_000, 1440, 8, "a100", None)
NODES = [Nodes(2, 64, 512_000, {"a100": 8}, "nvlink,80g"), Nodes(4, 32, 256_000, {}, "(null)")]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A folder of stand-ins, found before everything else."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path / "bin"


# Asking


def test_a_machine_without_slurm_is_told_from_a_controller_that_does_not_answer(commands, monkeypatch):
    program(commands, "sinfo", "#!/bin/sh\necho 'sinfo: error: fetch_config: DNS SRV lookup failed' >&2; exit 1\n")
    with pytest.raises(SlurmError, match=r"not a node of a Slurm cluster: .*Fix: .*without --profile slurm"):
        slurm.partitions()
    program(commands, "sinfo", "#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    with pytest.raises(SlurmError, match=r"Nothing was started\. Fix: type the same command again when sinfo answers"):
        slurm.partitions()
    monkeypatch.setenv("PATH", str(commands / "empty"))
    with pytest.raises(SlurmError, match=r"not a node of a Slurm cluster: there is no sinfo\. Nothing was started"):
        slurm.partitions()


def test_an_answer_is_waited_for_no_longer_than_said(commands):
    program(commands, "squeue", "#!/bin/sh\nsleep 60 & wait\n")
    began = time.monotonic()
    with pytest.raises(NoAnswer, match=r"squeue did not answer within 0\.5 seconds"):
        ask("squeue", seconds=0.5)
    stop = Event()
    Timer(0.5, stop.set).start()
    with pytest.raises(NoAnswer):
        ask("squeue", stop=stop)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("printed", "kind"),
    [
        ("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", NoAnswer),
        ("slurm_load_jobs error: Socket timed out on send/recv operation", NoAnswer),
        ("sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received", NoAnswer),
        ("squeue: error: If munged is up, restart with --num-threads=10", NoAnswer),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination", SlurmError),
    ],
)
def test_silence_is_told_from_a_refusal(commands, printed, kind):
    program(commands, "squeue", f"#!/bin/sh\necho '{printed}' >&2; exit 1\n")
    with pytest.raises(SlurmError) as told:
        ask("squeue")
    assert type(told.value) is kind


def test_a_command_that_is_not_there_is_no_answer(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoAnswer):
        ask("squeue")


def test_jobs_are_read_as_squeue_prints_them(commands):
    lines = (
        "7|RUNNING|amberline_x|me|None|1764120000|gpu|rule_a|b\n8|PENDING|n|me|launch failed requeued held|N/A|cpu|\n"
    )
    program(commands, "squeue", f"#!/bin/sh\nprintf '%s' '{lines}'\n")
    assert queued() == [
        Job("7", "RUNNING", "amberline_x", "rule_a|b", "me", "None", 1764120000.0, "gpu"),
        Job("8", "PENDING", "n", "", "me", "launch failed requeued held", None, "cpu"),
    ]


def test_an_outage_is_said_once_and_its_end_once_and_waits_grow():
    said = []
    outage = Outage(said.append)
    assert [outage.failed("squeue", "no socket") for _ in range(6)] == [5, 10, 20, 30, 30, 30]
    assert len(said) == 1
    assert "Slurm does not answer since " in said[0]
    assert "looking again in 5 s" in said[0]
    outage.failed("sbatch", "no socket")
    outage.answered("squeue")
    assert len(said) == 1  # the controller that answers one question may not answer another
    outage.answered("sbatch")
    outage.answered("squeue")
    assert len(said) == 2
    assert said[1].startswith("Slurm answers again, after ")
    assert outage.failed("squeue", "no socket") == 5


# Looking at the queue


class SnakemakeJob(SimpleNamespace):
    """A Snakemake job."""

    __hash__ = object.__hash__


class Jobs:
    """An executor with two jobs, and what it has reported."""

    def __init__(self, listed) -> None:
        self.listed = listed
        executor = WatchfulExecutor.__new__(WatchfulExecutor)
        settings = SimpleNamespace(status_command="squeue", keep_successful_logs=True)
        executor.workflow = SimpleNamespace(executor_settings=settings)
        executor.run_uuid = "amberline_x"
        executor.logger = SimpleNamespace(warning=self.say, info=lambda text: None, error=self.say)
        executor.stages = Stages(Path(), Path(), lambda job: None, lambda job: "data_hardware")
        executor._prepare(first_pause=1)
        executor.report_job_success = lambda info: self.ended.append(info.external_jobid)
        executor.report_job_error = lambda info, message: self.failed.append((info.external_jobid, message))
        executor._look = self.look
        executor._submit_job = lambda job: self.again.append(job.name)
        self.executor, self.said, self.ended, self.failed, self.again = executor, [], [], [], []
        self.infos = [self.info(number) for number in ("1", "2")]

    def say(self, text: str) -> None:
        self.said.append(text)

    def info(self, number: str):
        job = SnakemakeJob(
            name=f"stage{number}", wildcards=[], output=["/no/such/file"], log=[], attempt=1, restart_times=0, threads=1
        )
        job.resources = {"runtime": 1800, "slurm_partition": "cpu"}
        return SimpleNamespace(job=job, external_jobid=number, aux={"slurm_logfile": "/no/such/log"})

    def look(self, numbers):
        if isinstance(self.listed, Exception):
            raise self.listed
        return {number: Job(number, state, "n", "c", "me", reason) for number, state, reason in self.listed}

    async def _collect(self):
        return [info.external_jobid async for info in self.executor.check_active_jobs(self.infos)]

    def poll(self) -> list[str]:
        return asyncio.run(self._collect())


def test_jobs_of_a_look_without_an_answer_are_asked_about_again():
    jobs = Jobs(NoAnswer("squeue: Socket timed out"))
    for _ in range(5):
        assert jobs.poll() == ["1", "2"]
    assert jobs.executor._pause == 30
    assert len(jobs.said) == 1
    jobs.listed = [("1", "COMPLETED", "None"), ("2", "RUNNING", "None")]
    assert jobs.poll() == ["2"]
    assert jobs.ended == ["1"]
    assert jobs.executor._pause == 1


def test_a_job_that_slurm_has_forgotten_is_believed_to_have_ended_after_three_looks(tmp_path):
    jobs = Jobs([("2", "RUNNING", "None")])
    (tmp_path / "made").touch()
    jobs.infos[0].job.output = [tmp_path / "made"]
    assert [jobs.poll(), jobs.poll(), jobs.poll()] == [["1", "2"], ["1", "2"], ["2"]]
    assert jobs.ended == ["1"]


def test_a_job_that_can_never_start_is_taken_out_after_three_looks(commands):
    program(commands, "scancel", f"#!/bin/sh\necho $* >> {commands}/cancelled\n")
    jobs = Jobs([("1", "PENDING", "PartitionTimeLimit"), ("2", "PENDING", "Priority")])
    assert [jobs.poll(), jobs.poll(), jobs.poll()] == [["1", "2"], ["1", "2"], ["2"]]
    [(number, message)] = jobs.failed
    assert number == "1"
    assert message.startswith("Slurm job 1 (stage1) cannot start: PartitionTimeLimit (asked for 30 h in partition ")
    assert (commands / "cancelled").read_text() == "1\n"


def test_a_job_that_its_node_could_not_launch_is_submitted_again_three_times(commands):
    program(commands, "scancel", "#!/bin/sh\n")
    jobs = Jobs([("1", "PENDING", "launch failed requeued held"), ("2", "RUNNING", "None")])
    for _ in range(12):
        jobs.poll()
    assert jobs.again == ["stage1"] * 3
    assert "was held (launch failed requeued held), 4 times. Fix: ask the cluster's" in jobs.failed[0][1]


# Requests


def test_misfits_are_named_with_their_settings():
    assert misfits(FITS, NODES) == []
    asked = Request("hardware.sft", "gpu", 9, 128, 600_000, 1440, 9, "a100", "nvlink&infiniband")
    assert misfits(asked, NODES) == [
        "9 nodes, and it has 6: lower hardware.sft.nodes",
        "600 GB of memory a node, and the largest has 512 GB: lower hardware.sft.memory_gb",
        "128 cores a node, and the largest has 64: lower hardware.sft.cpus_per_rank",
        "9 a100 GPUs a node, and the most are 8: lower hardware.sft.ranks_per_node",
        "nodes with infiniband: change cluster.constraint in slurm/site.yaml",
    ]
    other_model = Request("hardware.sft", "gpu", 1, 8, 1000, 60, 1, "h200", None)
    assert misfits(other_model, NODES) == ["h200 GPUs, and it has a100: change cluster.gpu_model in slurm/site.yaml"]


def test_a_refused_request_is_explained_by_what_sinfo_says(commands):
    program(commands, "sinfo", "#!/bin/sh\necho '2|64|512000|gpu:a100:8(S:0-1)|nvlink'\n")
    h200 = Request("hardware.dpo", "gpu", 1, 64, 480_000, 1440, 8, "h200", None)
    assert why_refused(h200) == (
        "Of what it asks for, partition gpu does not have: h200 GPUs, and it has a100: change cluster.gpu_model in "
        "slurm/site.yaml."
    )
    told = why_refused(FITS)
    assert "1 node (hardware.sft.nodes), 64 cores (hardware.sft.cpus_per_rank), 480 GB (hardware.sft.memory_gb)" in told
    assert "8 a100 GPUs (hardware.sft.ranks_per_node, cluster.gpu_model) in partition gpu" in told


def test_what_a_snakemake_job_asks_for():
    resources = {"gres": "gpu:a100:8", "mem_mb": 480_000, "runtime": 1440, "nodes": 1, "slurm_partition": "gpu"}
    assert request_of(SimpleNamespace(resources=resources, threads=64), "hardware.sft") == FITS
    any_model = request_of(SimpleNamespace(resources={"gres": "gpu:8"}, threads=64), "hardware.sft")
    assert (any_model.gpus, any_model.gpu_model) == (8, None)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            "PartitionTimeLimit",
            "(asked for 24 h in partition gpu). Fix: lower hardware.sft.hours, or change cluster.tra",
        ),
        ("QOSMaxWallDurationPerJobLimit", "Fix: lower hardware.sft.hours"),
        ("QOSMaxGRESPerJob", "(asked for 8 GPUs in partition gpu). Fix: lower hardware.sft.ranks_per_node"),
        ("QOSMaxMemoryPerJob", "Fix: lower hardware.sft.memory_gb"),
        ("AccountNotAllowed", "Fix: change cluster.account in slurm/site.yaml"),
        ("PartitionNodeLimit", None),  # it would fit: nodes are down
        *((reason, None) for reason in ("Resources", "Priority", "PartitionDown", "ReqNodeNotAvail, May be reserved")),
        *((reason, None) for reason in ("QOSMaxJobsPerUserLimit", "AssocGrpGRES", "JobHeldUser", "BeginTime")),
    ],
)
def test_what_can_never_start_is_told_from_what_waits(reason, told, monkeypatch):
    monkeypatch.setattr(requests, "nodes_of", lambda partition: NODES)
    why = why_never(Job("7", "PENDING", "n", "c", "me", reason, None, "gpu"), FITS)
    assert why is None if told is None else told in why


def test_more_nodes_than_there_are_never_come(monkeypatch):
    monkeypatch.setattr(requests, "nodes_of", lambda partition: NODES[:1])
    asked = Request("hardware.sft", "gpu", 3, 64, 480_000, 1440, 8, "a100", None)
    assert why_never(Job("7", "PENDING", "n", "c", "me", "PartitionNodeLimit", None, "gpu"), asked) == (
        "PartitionNodeLimit: partition gpu does not have 3 nodes, and it has 2: lower hardware.sft.nodes"
    )


# Submitting


@pytest.fixture
def sbatch(commands, monkeypatch):
    """Make sbatch fail some times with a text, and then take the job."""
    monkeypatch.setattr(slurm, "WAITS", (0,))
    monkeypatch.setattr(submission, "WAITS", (0,) * 4)

    def fails(times: int, text: str) -> None:
        count = commands / "count"
        again = f'echo >> {count}; [ $(wc -l < {count}) -gt {times} ] || {{ echo "{text}" >&2; exit 1; }}'
        program(
            commands, "sbatch", f"#!/bin/sh\n{again}\ncat > {commands}/script; echo 'welcome'; echo '4711;cluster'\n"
        )

    return fails


def submitted(find=lambda: None, stop=None) -> tuple[str, list[str]]:
    said = []
    number = submit("sbatch --parsable -t '10'", "#!/bin/sh\n", find, Outage(said.append), said.append, stop or Event())
    return number, said


def test_a_job_is_submitted_after_any_number_of_silences(sbatch):
    sbatch(9, "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
    number, said = submitted()
    assert number == "4711"
    assert [text[:12] for text in said] == ["Slurm does n", "Slurm answer"]


def test_a_job_that_is_in_the_queue_is_not_submitted_again(sbatch):
    sbatch(9, "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
    answers = iter([NoAnswer("squeue: no"), "4710"])

    def find():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert submitted(find)[0] == "4710"


def test_errors_of_other_kinds_are_tried_a_few_times(sbatch):
    sbatch(3, "sbatch: error: Batch job submission failed: Unspecified error")
    number, said = submitted()
    assert number == "4711"
    assert said[0].endswith("Unspecified error. It is tried again in 0 s.")
    sbatch(99, "sbatch: error: Batch job submission failed: Unspecified error")
    with pytest.raises(Refused, match="Unspecified error"):
        submitted()


@pytest.mark.parametrize(
    "text",
    [
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "sbatch: error: invalid partition specified: gpus",
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)",
    ],
)
def test_a_refusal_is_not_tried_again(sbatch, commands, text):
    sbatch(1, text)
    with pytest.raises(Refused):
        submitted()
    assert (commands / "count").read_text().count("\n") == 1


def test_a_pipeline_that_ends_stops_trying(sbatch):
    sbatch(10**6, "sbatch: error: Unable to contact slurm controller")
    stop = Event()
    Timer(0.5, stop.set).start()
    with pytest.raises(Stopped):
        submitted(stop=stop)


# Logs and the status line


def test_only_a_log_that_the_jobs_program_wrote_explains_it(tmp_path):
    log = tmp_path / "program.log"
    log.write_text("of last week\n")
    before = logs.marks([log])
    assert logs.own_log(before, started=None) is None
    log.write_text("of the first start\n")
    wrote = log.stat().st_mtime
    assert logs.own_log(before, started=wrote - 1) == log
    assert logs.own_log(before, started=wrote + 60) is None  # the job was requeued, and its second start wrote nothing
    log.write_text("")
    assert logs.own_log(before, started=None) is None


def test_slurms_lines_in_a_programs_log_are_not_the_programs(tmp_path):
    log = tmp_path / "program.log"
    log.write_text("srun: error: Task launch for StepId=7.0 failed on node node1: Job credential expired\n")
    assert not logs.started(log)
    log.write_text("srun: error: node1: task 0: Exited with exit code 1\nsft: results/tokens is damaged\n")
    assert logs.started(log)


BAR = (
    "\rsft:  20%|██        | 2/10 [00:04<00:16,  2.0s/step, loss=1.2]"
    "\rsft:  30%|███       | 3/10 [00:06<00:14,  2.0s/step]"
)


def test_progress_is_read_from_the_last_bar(tmp_path):
    log = tmp_path / "program.log"
    log.write_text(f"continuing after step 1\n{BAR}", encoding="utf-8")
    assert logs.progress_in(log) == "step 3 of 10, 00:14 left"
    assert [line[:8] for line in logs.end_of(log)] == ["continui", "sft:  30"]
    log.write_text("nothing of that kind\n")
    assert logs.progress_in(log) is None


def test_progress_is_read_from_the_lines_that_programs_print_into_logs(tmp_path, monkeypatch):
    log = tmp_path / "program.log"
    monkeypatch.setattr(progress, "EVERY", 0)
    with log.open("w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stderr", file)
        with progress.progress(total=10, unit="step", desc="sft") as bar:
            bar.update(3)
            assert logs.progress_in(log).startswith("step 3 of 10")
    assert "\r" not in log.read_text(encoding="utf-8")


def test_a_job_that_waits_for_its_nodes_is_seen_in_its_log(tmp_path):
    log = tmp_path / "7.log"
    waits = "srun: Job 7 step creation temporarily disabled, retrying (Requested nodes are busy)"
    log.write_text(f"Select jobs\n{waits}\n")
    assert logs.waits_for_nodes(log) == waits
    log.write_text(f"Select jobs\n{waits}\nsrun: Step created for StepId=7.0\n")
    assert logs.waits_for_nodes(log) is None


def test_the_status_line_tells_states_reason_and_progress():
    jobs = [
        Job("12", "PENDING", "n", "c", "me", "Priority"),
        Job("9", "PENDING", "n", "c", "me", "Resources"),
        Job("7", "RUNNING", "n", "c", "me"),
    ]
    line = waiting_for(jobs, {"9": "train ambersafe", "7": "train amberchat"})
    assert with_progress(line, {"train amberchat": "step 3 of 10, 0:14 left"}) == (
        "Waiting for 3 Slurm jobs: 1 running, 2 pending. Job 9 (train ambersafe): Resources, waiting for free nodes. "
        "train amberchat: step 3 of 10, 0:14 left"
    )


def test_a_job_whose_nodes_are_being_started_waits_for_them():
    jobs = [Job("7", "RUNNING", "n", "c", "me"), Job("9", "CONFIGURING", "n", "c", "me")]
    assert waiting_for(jobs, {"9": "train ambersafe"}) == (
        "Waiting for 2 Slurm jobs: 1 running, 1 configuring. Job 9 (train ambersafe): its nodes are being started"
    )


def test_a_job_that_slurm_has_not_looked_at_yet_is_new():
    line = waiting_for([Job("9", "PENDING", "n", "c", "me")], {"9": "train ambersafe"})
    assert line == "Waiting for 1 Slurm job: 1 pending. Job 9 (train ambersafe): new in the queue"


def test_the_status_line_is_said_again_only_when_it_has_changed():
    jobs = Jobs([("1", "PENDING", "Priority"), ("2", "PENDING", "Priority")])
    jobs.executor.logger.info = jobs.say
    jobs.poll()
    jobs.poll()
    assert len(jobs.said) == 1
    assert "Waiting for 2 Slurm jobs: 2 pending. Job 1 (1): Priority, others are before it" in jobs.said[0].replace(
        "c)", "1)"
    )
