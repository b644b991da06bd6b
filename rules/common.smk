"""What all rules share: the checked configuration, and what Snakemake compares to tell whether a stage runs again."""

import ast
import atexit
import json
import os

from amberline.core.settings import Kind
from amberline.recipe.check import ConfigurationError, check_cluster, check_configuration, check_target, deviations
from amberline.core.code import code_digest, package_versions
from amberline.core.damage import find_damage
from amberline.core.digests import canonical
from pathlib import Path
from snakemake.cli import parse_args
from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile

# Programs run under the Python that runs Snakemake, whoever calls it; `--sdm conda` puts its own first.
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"

# A Slurm job runs with the settings and the code that it was submitted with, whatever the files say by now.
SUBMITTED = json.loads(Path(config["submitted"]).read_text(encoding="utf-8")) if "submitted" in config else None
if SUBMITTED:
    config.clear()
    config.update(SUBMITTED["config"])

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


def made(path):
    """The manifest of something made; what stages hand each other."""
    return f"{RESULTS}/{path}/manifest.json" if not os.path.splitext(path)[1] else f"{RESULTS}/{path}.manifest.json"


def result(part, **more):
    """The settings that change a result, as one string: compared exactly, whatever the order of the keys."""
    return canonical({**part.of(Kind.RESULT), **more})


class Untracked:
    """A param that Snakemake does not compare, as it does strings, numbers and containers: what changes no result."""

    def __init__(self, value):
        self.text = canonical(value)

    def __str__(self):
        return self.text


def code(*programs):
    """Digest of what programs do. In a Slurm job, raises WorkflowError if that changed since it was submitted."""
    found = code_digest(*(Path(workflow.basedir, "scripts", program) for program in programs))
    if SUBMITTED and SUBMITTED["code"].get(" ".join(programs), found) != found:
        raise WorkflowError(
            f"the code of scripts/{programs[0]} changed after this job was submitted: it was not started. "
            "Fix: start the pipeline again; it submits the job with the code that is there now"
        )
    return found


def packages(*programs):
    """Versions of the packages that can change what programs make."""
    files = [Path(workflow.basedir, "scripts", program) for program in programs]
    return package_versions(Path(workflow.basedir, LOCK), *files)


PROGRAMS = []  # of all rules, each with what it finds by a name in its settings


def depends(program, *paths, misfit=lambda wildcards: None):
    """Params beside the settings of a rule that makes `paths`: its code, its packages, and whether all is in order.

    `misfit` may find that what is there is not what is asked for.
    """
    PROGRAMS.append([program])
    return {
        "code": lambda wildcards: code(program),
        "packages": canonical(packages(program)),
        "whole": lambda wildcards: whole([made(path.format(**wildcards)) for path in paths], misfit, wildcards),
    }


def whole(manifests, misfit, wildcards):
    """A param that stays as it was recorded while the files are as their manifests say, and else is another one."""
    if not workflow.is_main_process:
        return ""
    if Path(manifests[0]).exists() and workflow.persistence.params(IOFile(manifests[0])) is None:
        UNRECORDED.append(manifests[0])
    text = recorded(manifests[0], "made: ") or "made: 1"
    try:
        fault = next(filter(None, map(find_damage, map(Path, manifests))), None) or misfit(wildcards)
    except OSError as error:
        fault = str(error)
    return f"made: {int(text.split()[1]) + 1} ({fault})" if fault else text


UNRECORDED = []  # what was made, but not by Snakemake in this folder


def tell_of_unrecorded():
    """At the end: changes of settings and code are noticed only for what Snakemake has recorded."""
    if UNRECORDED and workflow.is_main_process and not workflow.touch:
        print(
            f"{len(UNRECORDED)} results, such as {UNRECORDED[0]}, were made elsewhere: .snakemake has no record of them, "
            "so changes of settings and code since then are not noticed. "
            "Fix: if they are of this recipe, add --touch --forceall to the same command once; else delete them",
            file=sys.stderr,
        )


atexit.register(tell_of_unrecorded)


def recorded(output, prefix):
    """The param beginning with `prefix` that Snakemake recorded when it last made `output`; None if there is none."""
    values = [ast.literal_eval(value) for value in workflow.persistence.params(IOFile(output)) or ()]
    return next((value for value in values if isinstance(value, str) and value.startswith(prefix)), None)


# Parts of the configuration that go into each model.
CHAT_PARTS = ("sources.sharegpt", "sources.evol_instruct", "base_model", "amberchat")
SFT_PARTS = (*CHAT_PARTS, "sources.pku", "ambersafe.pairs", "ambersafe.tokens", "ambersafe.sft")
DPO_PARTS = (*SFT_PARTS, "ambersafe.dpo")


def described(name, source):
    """A source as model cards and the report name it. A local file may be any: that it is the hub's is not claimed."""
    published = source.path is None
    file = getattr(source, "file", None) if published else os.path.basename(source.path)
    return {
        "name": name,
        "repository": source.repository if published else None,
        "revision": source.revision if published else None,
        "file": file,
        "licence": source.licence,
    }


def sources_of(parts):
    """The sources among parts of the configuration; a stand-in for the base model is none."""
    found = [
        described(name, getattr(CONFIG.sources, name))
        for name in type(CONFIG.sources).model_fields
        if f"sources.{name}".startswith(parts)
    ]
    return found + ([] if CONFIG.base_model.tiny else [described("base_model", CONFIG.base_model)])


def command_line():
    """The options that a user gave to Snakemake; None in its jobs, and in programs that use it as a library."""
    by_name = os.path.basename(sys.argv[0]) == "snakemake" or sys.argv[0].endswith("/snakemake/__main__.py")
    if not (workflow.is_main_process and by_name):
        return None
    return parse_args(sys.argv[1:])[1]


# With one of these options Snakemake changes nothing in the results folder.
LOOKS_ONLY = (
    *("dryrun", "lint", "list_rules", "list_target_rules", "dag", "rulegraph", "filegraph", "d3dag", "summary"),
    *("detailed_summary", "list_changes", "list_input_changes", "list_params_changes", "list_untracked", "report"),
    *("print_compilation", "containerize", "export_cwl", "generate_unit_tests", "archive", "list_conda_envs"),
)


def looks_only(options):
    """Whether Snakemake changes nothing with these options; also if it was not started by a user."""
    return options is None or any(getattr(options, option) for option in LOOKS_ONLY)


def check_targets(options):
    """Stop at a target that is no rule and no file that a rule makes, with the nearest one that is."""
    names = [rule.name for rule in workflow.rules]
    for target in options.targets if options else ():
        try:
            check_target(target, names, RESULTS)
        except ConfigurationError as error:
            raise WorkflowError(str(error)) from None
