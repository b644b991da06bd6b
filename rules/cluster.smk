"""Where stages run: what each asks of a cluster, how its processes are started, and what an earlier start left there.

On a single machine the same rules apply: Snakemake then looks at threads, and at the GPUs that the machine has.
"""

import atexit
import signal

from amberline.cluster.accounts import RECORD
from amberline.cluster.claim import ClaimError, claim
from amberline.cluster.endings import interrupted, saved_trainings
from amberline.cluster.executor import watch_jobs
from amberline.cluster.ledger import Stages
from amberline.cluster.machine import count_gpus, missing_gpus, old_driver, other_kind, other_versions, too_little_room
from amberline.cluster.slurm import SlurmError, partitions
from amberline.core.digests import value_digest
from amberline.core.files import whole_file

# The wildcard that names the node which may have hardware of its own, by kind of work.
NODE_OF = {"train": "model", "score_reference": None, "evaluate": "evaluation"}


CHECKPOINTS = place("checkpoints")

LOCAL_GPUS = "local_gpus"


def hardware_of(work, wildcards):
    """On what a job runs a model."""
    return RECIPE.hardware(work, wildcards.get(NODE_OF[work]) if NODE_OF[work] else None)


def growing(amount):
    """More at each new attempt: 1, 1.5 and 2 times of it. A job is tried anew when this was what it lacked."""
    return lambda wildcards, attempt: int(amount(wildcards) * (1 + attempt) / 2)


def placed(partition):
    """Where a job may run; nothing where the cluster's default will do."""
    asked = {"slurm_partition": partition, "slurm_account": CLUSTER.account}
    return {name: value for name, value in asked.items() if value is not None}


def data_stage():
    """Resources of a stage that prepares data on CPUs."""
    hardware = RECIPE.around.data_hardware
    return {
        **placed(CLUSTER.data_partition),
        "mem_mb": growing(lambda wildcards: hardware.memory_gb * 1000),
        "runtime": growing(lambda wildcards: hardware.hours * 60),
    }


def gpus(hardware):
    """The GPUs of each node, as Slurm wants them said; None for none."""
    if hardware.device == "cpu":
        return None
    return ":".join(filter(None, ("gpu", CLUSTER.gpu_model, str(hardware.ranks_per_node))))


def model_stage(work):
    """Resources of a stage that runs a model: nodes, GPUs, memory and time. What is None is not asked for."""

    def asked(value):
        return lambda wildcards: value(hardware_of(work, wildcards))

    def over_nodes(value):
        return asked(lambda hardware: value(hardware) if hardware.nodes > 1 else None)

    minutes = asked(lambda hardware: int(hardware.hours * 60))
    return {
        **placed(CLUSTER.training_partition),
        "gres": asked(gpus),
        # For Snakemake's own scheduler. Under the names gpu and gpus the Slurm plugins would ask for them once more.
        LOCAL_GPUS: asked(lambda hardware: hardware.ranks_per_node if hardware.device == "cuda" else None),
        "constraint": asked(lambda hardware: CLUSTER.constraint if hardware.device == "cuda" else None),
        "nodes": asked(lambda hardware: hardware.nodes),
        "mem_mb": growing(asked(lambda hardware: hardware.memory_gb * 1000)),
        "runtime": minutes if work == "train" else growing(minutes),
        # URG, unlike others, is ignored by every program between Slurm and the training that does not know it. What
        # the job printed before it was put back into the queue is kept.
        "slurm_extra": f"--signal=URG@{CLUSTER.grace_seconds} --open-mode=append",
        # The launcher's own srun spans the nodes; tasks_per_gpu=0 keeps the plugin from dividing GPUs among tasks.
        "mpi": over_nodes(lambda hardware: "srun"),
        "tasks": over_nodes(lambda hardware: hardware.nodes),
        "tasks_per_gpu": over_nodes(lambda hardware: 0),
    }


def cores(work):
    """Cores of one node that a stage uses."""

    def threads(wildcards):
        hardware = hardware_of(work, wildcards)
        return hardware.ranks_per_node * hardware.cpus_per_rank

    return threads


def launched(work):
    """Params of a program that is started once per rank; none of this changes a result."""
    return {
        "launch": lambda wildcards: Untracked(launch(work, wildcards)),
        "hardware": lambda wildcards: Untracked(hardware_of(work, wildcards).model_dump(mode="json")),
    }


def launch(work, wildcards):
    """The command that starts a program once per rank; what follows is the program."""
    hardware = hardware_of(work, wildcards)
    slurm = "--slurm " if workflow.remote_exec else ""
    # Under this name a start leaves marks beside the checkpoints.
    stage = wildcards.model if work == "train" else "-on-".join(wildcards)
    # Only trainings read their tokens more than once. The node fills in the variables.
    scratch = f"--scratch '{CLUSTER.scratch}' " if CLUSTER.scratch and slurm and work == "train" else ""
    return (
        # Shell and tee outlive Ctrl-C, and the warning that Slurm sends before it takes the machine away, as the
        # launcher does: a training writes a checkpoint.
        f"trap '' TERM INT; python {shlex.quote(SCRIPTS)}/launch.py {slurm}{scratch}--stage {stage} --device {hardware.device} "
        f"--nodes {hardware.nodes} --ranks-per-node {hardware.ranks_per_node} "
        f"--cpus-per-rank {hardware.cpus_per_rank} --checkpoints {shlex.quote(CHECKPOINTS)} --"
    )


if CLUSTER.modules:
    # Modules know nothing of strict shells, so they come before Snakemake's own prefix.
    shell.prefix(f"module load {' '.join(CLUSTER.modules)}; set -euo pipefail; ")


def training(job):
    """The folder of a job's checkpoints and its stage; None for jobs that start from the beginning."""
    return (Path(CHECKPOINTS), job.wildcards.model) if rule_of(job) == "train" else None


def hardware_keys(job):
    """The settings that say what a job asks for."""
    work = rule_of(job)
    return f"hardware.{job.wildcards.get(NODE_OF[work] or '', work)}" if work in NODE_OF else "data_hardware"


def check_partitions(known):
    """Stop at a partition that the cluster does not have."""
    for key in ("data_partition", "training_partition"):
        asked = getattr(CLUSTER, key)
        if asked is not None and asked not in known:
            raise ConfigurationError(
                f"cluster.{key} in slurm/site.yaml: found {asked!r}, nothing was started. "
                f"Partitions of this cluster: {', '.join(known)}"
            )


def submit_with_settings():
    """Hand jobs the settings and the digests of the code as they are now, whatever the files say when a job starts."""
    submitted = {
        "recipe": WRITTEN,
        "cluster": CLUSTER.model_dump(mode="json"),
        "code": DIGESTS,
    }
    file = Path(".snakemake/amberline", f"submitted-{value_digest(submitted)[:16]}.json")
    with whole_file(file) as partial:
        partial.write_text(json.dumps(submitted, indent=1), encoding="utf-8")
    workflow.config_settings.configfiles = []
    workflow.config_settings.config_args = [f"submitted={file}"]


def check_machine():
    """Before the first job that runs here: stop at what this machine cannot do, warn of other versions of packages."""
    running = [job for job in workflow.dag.jobs if workflow.dag.needrun(job)]
    asked = {
        " ".join([rule_of(job), *job.wildcards]): hardware_of(rule_of(job), job.wildcards)
        for job in running
        if rule_of(job) in NODE_OF
    }
    faults = missing_gpus(asked)
    if any(hardware.device == "cuda" for hardware in asked.values()):
        faults += filter(None, [other_kind(RECIPE.around.environment), old_driver()])
    faults += filter(None, [too_little_room(Path(place("")), map(bytes_of, running))])
    if faults:
        raise WorkflowError(
            "\n  ".join(["This machine cannot run what is asked for. Nothing was started.", *faults, MACHINE])
        )
    if asked and (others := other_versions(Path(LOCK))):
        print(
            f"Installed packages have other versions than {LOCK}: {', '.join(others)}. Results may differ. "
            f"Fix: make environment ENVIRONMENT={RECIPE.around.environment}",
            file=sys.stderr,
        )


def share_gpus():
    """Have stages wait for each other's GPUs on this machine, unless the user has said how many there are."""
    found = count_gpus()
    if found and LOCAL_GPUS not in workflow.global_resources:
        workflow.register_resource(LOCAL_GPUS, found)


def tell_of_interrupt(checkpoints):
    """At the end, after a Ctrl-C: what is kept, and how to go on."""
    before, saved = signal.getsignal(signal.SIGINT), saved_trainings(checkpoints)

    def note(number, frame):
        if not noted:
            noted.append(number)
            atexit.register(lambda: print(interrupted(checkpoints, saved), file=sys.stderr))
        before(number, frame)

    noted = []
    if callable(before):
        signal.signal(signal.SIGINT, note)


MACHINE = (
    "Fix: run it on a cluster (snakemake --profile slurm), set hardware.default to what this machine has, or try the demo "
    "(make demo). Data alone needs no GPU: name a dataset as the target."
)


def bytes_of(job):
    """About how many bytes a job leaves behind, as far as that is known: raw files, checkpoints and exported weights."""
    if rule_of(job) == "acquire":
        return RECIPE.nodes.sources[job.wildcards.source].bytes or 0
    if rule_of(job) not in {"train", "export"}:
        return 0
    root = manifest_of_made(paths.model(RECIPE.root(job.wildcards.model)))
    weights = 4 * root["facts"]["parameters"] if root else 0
    # A checkpoint has the optimizer's two moments beside the weights, and one is written before another is deleted.
    keep = RECIPE.training(job.wildcards.model).checkpoints.keep
    return weights * (3 * (keep + 1) + 1) if rule_of(job) == "train" else weights


def prepare(options):
    """Before anything runs: use our executor for Slurm, and take the results folder, ending what was left there.

    Called by the Snakefile when all else is in order.
    """
    if options is None:
        return
    slurm = options.executor == "slurm"
    if slurm:
        watch_jobs(Stages(Path(place("")), Path(place(""), RECORD), training, hardware_keys))
    if looks_only(options):
        return
    try:
        if slurm and not options.unlock:
            check_partitions(partitions())
        lock = claim(Path(place("")), lambda text: print(text, file=sys.stderr))
    except (ClaimError, ConfigurationError, SlurmError) as error:
        raise WorkflowError(str(error)) from None
    atexit.register(lock.release)
    if not slurm:
        share_gpus()
        tell_of_interrupt(Path(CHECKPOINTS))
