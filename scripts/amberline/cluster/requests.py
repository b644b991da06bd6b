"""What a job asks of the cluster, what the nodes of its partition have, and in which settings the difference lies."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amberline.cluster.slurm import Job, SlurmError, ask

# Reasons of pending jobs after which Slurm never starts them, and the setting that each is about.
LIMITS = (
    (re.compile(r"PartitionTimeLimit|MaxWallDurationPerJob|MaxWall"), "hours"),
    (re.compile(r"(Assoc|QOS)\w*Node\w*PerJob"), "nodes"),
    (re.compile(r"(Assoc|QOS)\w*(GRES|Gres)\w*PerJob"), "gpus"),
    (re.compile(r"(Assoc|QOS)\w*(Mem|Memory)\w*PerJob"), "memory"),
    (re.compile(r"(Assoc|QOS)\w*Cpu\w*PerJob"), "cores"),
    (re.compile(r"AccountNotAllowed|InvalidAccount|QOSNotAllowed|InvalidQOS"), "account"),
)

# Reasons of jobs that no nodes fit. They are final if none would fit at the best of times: nodes may be down.
MISFITS = {"PartitionConfig", "PartitionNodeLimit", "BadConstraints"}


@dataclass(frozen=True)
class Request:
    """What a job asks for, on each node where it is several."""

    keys: str  # of its settings: hardware.STAGE, or data_hardware
    partition: str | None
    nodes: int
    cores: int
    memory_mb: int
    minutes: int
    gpus: int
    gpu_model: str | None
    constraint: str | None
    account: str | None = None

    @property
    def trains(self) -> bool:
        """Whether it runs a model."""
        return self.keys != "data_hardware"

    @property
    def partition_key(self) -> str:
        """The setting that names its partition."""
        return f"cluster.{'training' if self.trains else 'data'}_partition in slurm/site.yaml"

    @property
    def cores_key(self) -> str:
        """The setting that its number of cores comes from."""
        return f"{self.keys}.{'cpus_per_rank' if self.trains else 'processes'}"


@dataclass(frozen=True)
class Nodes:
    """Nodes of a partition that are alike."""

    number: int
    cores: int
    memory_mb: int
    gpus: dict[str, int]  # by model
    features: str


def request_of(job: Any, keys: str) -> Request:
    """What a Snakemake job asks for."""
    asked = job.resources
    model, _, gpus = str(asked.get("gres") or "").removeprefix("gpu:").rpartition(":")
    return Request(
        keys=keys,
        partition=asked.get("slurm_partition"),
        nodes=int(asked.get("nodes") or 1),
        cores=int(job.threads),
        memory_mb=int(asked.get("mem_mb") or 0),
        minutes=int(asked.get("runtime") or 0),
        gpus=int(gpus or 0),
        gpu_model=model or None,
        constraint=asked.get("constraint"),
        account=asked.get("slurm_account"),
    )


def nodes_of(partition: str | None) -> list[Nodes]:
    """The nodes of a partition, or of all. Raises SlurmError."""
    options = [f"--partition={partition}"] if partition else []
    lines = ask("sinfo", "--noheader", "--exact", "--format=%D|%c|%m|%G|%f", *options).splitlines()
    return [_nodes(line) for line in lines if line.strip()]


def _nodes(line: str) -> Nodes:
    number, cores, memory, resources, features = line.strip().split("|", 4)
    found = re.findall(r"gpu:(?:([\w.-]+):)?(\d+)", resources)
    gpus: dict[str, int] = {}
    for model, count in found:
        gpus[model] = gpus.get(model, 0) + int(count)
    # A plus sign says that others have more.
    return Nodes(int(number), int(cores.rstrip("+")), int(memory.rstrip("+")), gpus, features)


def misfits(asked: Request, nodes: Sequence[Nodes]) -> list[str]:
    """What no node of the partition has, each with the setting that asks for it."""
    if not nodes:
        return [f"it has no nodes ({asked.partition_key})"]
    cores, memory = max(each.cores for each in nodes), max(each.memory_mb for each in nodes)
    models = sorted({model for each in nodes for model in each.gpus if model})
    of_model = [
        sum(each.gpus.values()) if asked.gpu_model is None else each.gpus.get(asked.gpu_model, 0) for each in nodes
    ]
    number, most = sum(each.number for each in nodes), max(of_model)
    named = f"{asked.gpu_model} GPUs" if asked.gpu_model else "GPUs"
    wrong = []
    if asked.nodes > number:
        wrong.append(f"{asked.nodes} nodes, and it has {number}: lower {asked.keys}.nodes")
    if asked.memory_mb > memory:
        wrong.append(
            f"{asked.memory_mb / 1000:g} GB of memory a node, and the largest has {memory / 1000:g} GB: "
            f"lower {asked.keys}.memory_gb"
        )
    if asked.cores > cores:
        wrong.append(f"{asked.cores} cores a node, and the largest has {cores}: lower {asked.cores_key}")
    if asked.gpus and asked.gpu_model and asked.gpu_model not in models:
        wrong.append(
            f"{named}, and it has {', '.join(models) or 'no GPUs that are named'}: change cluster.gpu_model in "
            "slurm/site.yaml"
        )
    elif asked.gpus > most:
        wrong.append(f"{asked.gpus} {named} a node, and the most are {most}: lower {asked.keys}.ranks_per_node")
    known = set(re.split(r"[,|&]", ",".join(each.features for each in nodes)))
    if asked.constraint and (unknown := set(re.findall(r"[\w.-]+", asked.constraint)) - known):
        wrong.append(f"nodes with {', '.join(sorted(unknown))}: change cluster.constraint in slurm/site.yaml")
    return wrong


def described(asked: Request) -> str:
    """All that is asked for, for people, with the settings."""
    parts = [
        f"{asked.nodes} node{'s' * (asked.nodes > 1)} ({asked.keys}.nodes)" if asked.trains else "1 node",
        f"{asked.cores} cores ({asked.cores_key})",
        f"{asked.memory_mb / 1000:g} GB ({asked.keys}.memory_gb)",
        f"{asked.minutes / 60:g} h ({asked.keys}.hours)",
    ]
    if asked.gpus:
        model = f" {asked.gpu_model}" if asked.gpu_model else ""
        parts.append(f"{asked.gpus}{model} GPUs ({asked.keys}.ranks_per_node, cluster.gpu_model)")
    if asked.constraint:
        parts.append(f"features {asked.constraint} (cluster.constraint)")
    return ", ".join(parts)


def why_refused(asked: Request) -> str:
    """Which part of a refused request no node can give, for people."""
    where = f"partition {asked.partition}" if asked.partition else "the default partition"
    try:
        wrong = misfits(asked, nodes_of(asked.partition))
    except SlurmError:
        wrong = []
    if wrong:
        return f"Of what it asks for, {where} does not have: {'; '.join(wrong)}."
    return (
        f"It asks for {described(asked)} in {where} ({asked.partition_key}). "
        "Fix: compare this with `sinfo -o '%P %D %c %m %G %f %l'`."
    )


def why_never(job: Job, asked: Request) -> str | None:
    """Why Slurm will never start a pending job, and what to change; None if it only has to wait. Raises SlurmError."""
    if job.reason in MISFITS:
        wrong = misfits(asked, nodes_of(job.partition))
        return f"{job.reason}: partition {job.partition} does not have {'; '.join(wrong)}" if wrong else None
    setting = next((setting for reasons, setting in LIMITS if reasons.search(job.reason)), None)
    return _lower(setting, job, asked) if setting else None


def _lower(setting: str, job: Job, asked: Request) -> str:
    """The reason, what was asked for, and the setting to change."""
    amount, fix = {
        "hours": (f"{asked.minutes / 60:g} h", f"lower {asked.keys}.hours"),
        "nodes": (f"{asked.nodes} nodes", f"lower {asked.keys}.nodes"),
        "gpus": (f"{asked.gpus * asked.nodes} GPUs", f"lower {asked.keys}.ranks_per_node"),
        "memory": (f"{asked.memory_mb / 1000:g} GB a node", f"lower {asked.keys}.memory_gb"),
        "cores": (f"{asked.cores} cores a node", f"lower {asked.cores_key}"),
        "account": (
            f"account {asked.account}" if asked.account else "the default account",
            "change cluster.account in slurm/site.yaml",
        ),
    }[setting]
    other = f", or change {asked.partition_key}" if setting in {"hours", "nodes", "gpus", "memory", "cores"} else ""
    return f"{job.reason} (asked for {amount} in partition {job.partition}). Fix: {fix}{other}"
