"""What all rules share: the checked configuration, and the code that a program consists of."""

import os

from amberline.settings.check import ConfigurationError, check_cluster, check_configuration, check_target, deviations
from amberline.provenance.digests import canonical, imported_files, sampled_digest
from pathlib import Path
from snakemake.cli import parse_args
from snakemake.exceptions import WorkflowError

# Programs run under the Python that runs Snakemake, whoever calls it; `--sdm conda` puts its own first.
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"

# What is particular to a cluster is no part of the recipe.
site = config.pop("cluster", None)

try:
    CLUSTER = check_cluster(site)
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


# Parts of the configuration that go into each model.
CHAT_PARTS = ("sources.sharegpt", "sources.evol_instruct", "base_model", "amberchat")
SFT_PARTS = (*CHAT_PARTS, "sources.pku", "ambersafe.pairs", "ambersafe.tokens", "ambersafe.sft")
DPO_PARTS = (*SFT_PARTS, "ambersafe.dpo")


def export_settings(name, dtype, template, parts, *, policy, deviations=DEVIATIONS):
    """What an exported model carries, with the deviations from the published recipe that went into it."""
    differ = {key: values for key, values in deviations.items() if key.startswith(parts)}
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
