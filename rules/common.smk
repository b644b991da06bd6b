"""What all rules share: the checked configuration, the code a program consists of, how a training is launched."""

import os

from amberline.settings.check import ConfigurationError, check_configuration, check_target, deviations
from amberline.provenance.digests import canonical, imported_files, sampled_digest
from pathlib import Path
from snakemake.cli import parse_args
from snakemake.exceptions import WorkflowError

# Programs run under the Python that runs Snakemake, whoever calls it; `--sdm conda` puts its own first.
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"

try:
    CONFIG = check_configuration(config, files=workflow.is_main_process)
except ConfigurationError as error:
    raise WorkflowError(str(error)) from None

RESULTS = CONFIG.results
LOCK = f"envs/{CONFIG.environment}.lock"
ENVIRONMENT = f"../envs/{CONFIG.environment}.yaml"
# Keys that differ from the published recipe, for model cards and the report.
DEVIATIONS = deviations(config, published=f"{workflow.basedir}/config.yaml")


wildcard_constraints:
    part="train|test",
    holdout="|-heldout",


def settings(part, **more):
    """A stage's settings as the one string that is its param: compared exactly, whatever the order of the keys."""
    return canonical({**part.model_dump(mode="json"), **more})


def code(program):
    """The program and every file of ours that it imports: a change of any of them reruns the rule."""
    files = imported_files(Path(workflow.basedir, "scripts", program))
    return [os.path.relpath(file, workflow.basedir) for file in files]


def made(path):
    """The manifest of something made; what stages hand each other."""
    return f"{RESULTS}/{path}/manifest.json" if not os.path.splitext(path)[1] else f"{RESULTS}/{path}.manifest.json"


def data_stage():
    """Resources of a stage that prepares data on CPUs."""
    hardware = CONFIG.data_hardware
    return {"mem_mb": hardware.memory_gb * 1000, "runtime": hardware.hours * 60}


def training_stage(stage):
    """Resources of a stage that runs a model: nodes, GPUs, memory and time, as Slurm wants them said."""
    hardware = getattr(CONFIG.hardware, stage)
    asked = {"nodes": hardware.nodes, "mem_mb": hardware.memory_gb * 1000, "runtime": int(hardware.hours * 60)}
    if hardware.device == "cuda":
        model = f"{hardware.gpu_model}:" if hardware.gpu_model else ""
        asked["gres"] = f"gpu:{model}{hardware.ranks_per_node}"
    if hardware.nodes > 1:
        # The rule's own srun spans the nodes; tasks_per_gpu=0 keeps the plugin from dividing the GPUs among tasks.
        asked |= {"mpi": "srun", "tasks": hardware.nodes, "tasks_per_gpu": 0}
    return asked


def training_threads(stage):
    """Cores of one node that a training stage uses."""
    hardware = getattr(CONFIG.hardware, stage)
    return hardware.ranks_per_node * hardware.cpus_per_rank


def launch(stage):
    """The command that starts a program once per rank.

    It ends with `--`: without, torchrun takes a program's `--run` for a short form of an option of its own.
    """
    hardware = getattr(CONFIG.hardware, stage)
    ranks = f"--nproc-per-node={hardware.ranks_per_node}"
    if hardware.nodes == 1:
        return f"torchrun --standalone {ranks} --"
    nodes = hardware.nodes
    return (
        f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --cpus-per-task={training_threads(stage)} "
        f"--kill-on-bad-exit=1 torchrun --nnodes={nodes} {ranks} "
        "--rdzv-backend=c10d --rdzv-id=$SLURM_JOB_ID --rdzv-endpoint=$(hostname):29501 --"
    )


STAGES = ("amberchat", "sft", "reference", "dpo", "evaluation")
# Named in the shell text, but no params: none of this changes a result, so none of it reruns a finished stage.
LAUNCH = {stage: launch(stage) for stage in STAGES}
HARDWARE = {stage: settings(getattr(CONFIG.hardware, stage)) for stage in STAGES}
TRACKING = settings(CONFIG.tracking)


# Parts of the configuration that go into each model.
CHAT_PARTS = ("sources.sharegpt", "sources.evol_instruct", "base_model", "amberchat")
PAIR_PARTS = (*CHAT_PARTS, "sources.pku", "ambersafe.pairs", "ambersafe.tokens")


def export_settings(name, dtype, template, parts, policy):
    """What an exported model carries, with the deviations from the published recipe that went into it."""
    differ = {key: values for key, values in DEVIATIONS.items() if key.startswith(parts)}
    return canonical({"name": name, "dtype": dtype, "template": template, "policy": policy, "deviations": differ})


def check_targets():
    """Stop at a target that is no rule and no file that a rule makes, with the nearest one that is."""
    if not workflow.is_main_process or os.path.basename(sys.argv[0]) != "snakemake":
        return
    # Snakemake knows its targets only after it has read the rules; its own parser tells them now.
    _, arguments = parse_args(sys.argv[1:])
    names = [rule.name for rule in workflow.rules]
    for target in arguments.targets:
        try:
            check_target(target, names, RESULTS)
        except ConfigurationError as error:
            raise WorkflowError(str(error)) from None
