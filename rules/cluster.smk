"""Where stages run: what each asks of a cluster, how its processes are started, and what an earlier start left there.

On a single machine the same rules apply: Snakemake then looks at threads alone.
"""

import atexit

from amberline.cluster.accounts import RECORD
from amberline.cluster.claim import ClaimError, claim
from amberline.cluster.executor import watch_jobs
from amberline.cluster.ledger import Stages
from amberline.cluster.slurm import SlurmError, partitions
from amberline.core.digests import value_digest
from amberline.core.files import whole_file

STAGES = ("amberchat", "sft", "reference", "dpo", "evaluation")
# Rules that continue from a checkpoint, and the stage whose checkpoints they are.
CONTINUED = {"finetune_amberchat": "amberchat", "finetune_preferred": "sft", "train_dpo": "dpo"}
# Rules that run a model, and the stage under `hardware` that says where; all others ask for data_hardware.
ON_HARDWARE = {**CONTINUED, "score_reference": "reference", "evaluate": "evaluation", "sample_answers": "evaluation"}


def growing(amount):
    """More at each new attempt: 1, 1.5 and 2 times of it. A job is tried anew when this was what it lacked."""
    return lambda wildcards, attempt: int(amount * (1 + attempt) / 2)


def placed(partition):
    """Where a job may run; nothing where the cluster's default will do."""
    asked = {"slurm_partition": partition, "slurm_account": CLUSTER.account}
    return {name: value for name, value in asked.items() if value is not None}


def data_stage():
    """Resources of a stage that prepares data on CPUs."""
    hardware = CONFIG.data_hardware
    return {
        **placed(CLUSTER.data_partition),
        "mem_mb": growing(hardware.memory_gb * 1000),
        "runtime": growing(hardware.hours * 60),
    }


def gpus(hardware, number):
    """So many GPUs on each node, as Slurm wants them said."""
    if hardware.device == "cpu":
        return {}
    asked = {"gres": ":".join(filter(None, ("gpu", CLUSTER.gpu_model, str(number))))}
    if CLUSTER.constraint:
        asked["constraint"] = CLUSTER.constraint
    return asked


def training_stage(stage):
    """Resources of a stage that runs a model: nodes, GPUs, memory and time."""
    hardware = getattr(CONFIG.hardware, stage)
    minutes = int(hardware.hours * 60)
    asked = {
        **placed(CLUSTER.training_partition),
        **gpus(hardware, hardware.ranks_per_node),
        "nodes": hardware.nodes,
        "mem_mb": growing(hardware.memory_gb * 1000),
        "runtime": minutes if stage in CONTINUED.values() else growing(minutes),
        # URG, unlike others, is ignored by every program between Slurm and the training that does not know it. What
        # the job printed before it was put back into the queue is kept.
        "slurm_extra": f"--signal=URG@{CLUSTER.grace_seconds} --open-mode=append",
    }
    if hardware.nodes > 1:
        # The launcher's own srun spans the nodes; tasks_per_gpu=0 keeps the plugin from dividing GPUs among tasks.
        asked |= {"mpi": "srun", "tasks": hardware.nodes, "tasks_per_gpu": 0}
    return asked


def training_threads(stage):
    """Cores of one node that a training stage uses."""
    hardware = getattr(CONFIG.hardware, stage)
    return hardware.ranks_per_node * hardware.cpus_per_rank


def single_process(stage):
    """Resources of a program that runs a model in one process."""
    hardware = getattr(CONFIG.hardware, stage)
    return {
        **placed(CLUSTER.training_partition),
        **gpus(hardware, 1),
        "nodes": 1,
        "mem_mb": growing(hardware.memory_gb * 1000 // hardware.ranks_per_node),
        "runtime": growing(int(hardware.hours * 60)),
    }


def launch(stage):
    """The command that starts a program once per rank; what follows are the folder of its checkpoints, --, the program."""
    hardware = getattr(CONFIG.hardware, stage)
    slurm = "--slurm " if workflow.remote_exec else ""
    # Only trainings read their tokens more than once. The node fills in the variables.
    scratch = f"--scratch '{CLUSTER.scratch}' " if CLUSTER.scratch and slurm and stage in CONTINUED.values() else ""
    return (
        # Shell and tee outlive the warning that Slurm sends before it takes the machine away, as the launcher does.
        f"trap '' TERM; python scripts/launch.py {slurm}{scratch}--stage {stage} --device {hardware.device} "
        f"--nodes {hardware.nodes} --ranks-per-node {hardware.ranks_per_node} "
        f"--cpus-per-rank {hardware.cpus_per_rank} --checkpoints "
    )


# Named in the shell text, but no params: none of this changes a result, so none of it reruns a finished stage.
LAUNCH = {stage: launch(stage) for stage in STAGES}
HARDWARE = {stage: canonical(getattr(CONFIG.hardware, stage).model_dump(mode="json")) for stage in STAGES}

if CLUSTER.modules:
    # Modules know nothing of strict shells, so they come before Snakemake's own prefix.
    shell.prefix(f"module load {' '.join(CLUSTER.modules)}; set -euo pipefail; ")


def training(job):
    """The folder of a job's checkpoints and its stage; None for jobs that start from the beginning."""
    stage = CONTINUED.get(job.rule.name)
    return (Path(f"{RESULTS}/checkpoints{job.wildcards.get('variant', '')}"), stage) if stage else None


def hardware_keys(job):
    """The settings that say what a job asks for."""
    stage = ON_HARDWARE.get(job.rule.name)
    return f"hardware.{stage}" if stage else "data_hardware"


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
        "config": {**CONFIG.model_dump(mode="json"), "cluster": CLUSTER.model_dump(mode="json")},
        "code": {" ".join(programs): code(*programs) for programs in PROGRAMS},
    }
    file = Path(".snakemake/amberline", f"submitted-{value_digest(submitted)[:16]}.json")
    with whole_file(file) as partial:
        partial.write_text(json.dumps(submitted, indent=1), encoding="utf-8")
    workflow.config_settings.configfiles = []
    workflow.config_settings.config_args = [f"submitted={file}"]


def prepare(options):
    """Before anything runs: use our executor for Slurm, and take the results folder, ending what was left there.

    Called by the Snakefile when all else is in order.
    """
    if options is None:
        return
    slurm = options.executor == "slurm"
    if slurm:
        watch_jobs(Stages(Path(RESULTS), Path(RESULTS, RECORD), training, hardware_keys))
    if looks_only(options):
        return
    try:
        if slurm and not options.unlock:
            check_partitions(partitions())
        lock = claim(Path(RESULTS), lambda text: print(text, file=sys.stderr))
    except (ClaimError, ConfigurationError, SlurmError) as error:
        raise WorkflowError(str(error)) from None
    atexit.register(lock.release)
