"""What all rules share: the checked recipe, and what Snakemake compares to tell whether a job runs again."""

import ast
import atexit
import json
import os
import shlex

from amberline.core.code import code_digest, package_versions
from amberline.core.damage import find_damage
from amberline.core.digests import canonical, value_digest
from amberline.core.files import whole_file
from amberline.core.settings import Kind
from amberline.recipe import paths
from amberline.recipe.check import check_cluster, check_recipe, check_target
from amberline.recipe.files import WORKFLOW, ConfigurationError, on_top, read_file, read_recipe
from amberline.recipe.graph import alternatives
from amberline.recipe.inventory import models_of_no_node
from amberline.recipe.resolve import RESERVED
from amberline.recipe.variants import told
from amberline.recipe.yaml_files import with_types
from pathlib import Path
from snakemake.cli import parse_args
from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile

# Programs run under the Python that runs Snakemake, whoever calls it; `--sdm conda` puts its own first. PATH is set
# here rather than asked for, so there is no `envvars`, which `snakemake --lint` would like.
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"

# A Slurm job runs with the settings and the code that it was submitted with, whatever the files say by now.
SUBMITTED = json.loads(Path(config["submitted"]).read_text(encoding="utf-8")) if "submitted" in config else None


# Another workflow may use this one as a module, with other names for rules and a prefix before all paths.
IS_MODULE = not workflow.modifier.is_main_snakefile()
PREFIX = str(workflow.modifier.modify_path("x")).removesuffix("x")
RULES = {workflow.modifier.modify_rulename(name): name for name in RESERVED}


def command_line():
    """The options that a user gave to Snakemake; None in its jobs, and in programs that use it as a library."""
    by_name = Path(sys.argv[0]).name == "snakemake" or Path(sys.argv[0]).parts[-2:] == ("snakemake", "__main__.py")
    if not (workflow.is_main_process and by_name):
        return None
    files = [word for word in sys.argv[1:] if word.partition("=")[0] in {"--configfile", "--configfiles"}]
    if len(files) > 1:
        # Snakemake heeds the last one alone, without a word.
        raise WorkflowError(
            "--configfile is given twice. Nothing was started. "
            "Fix: name all files behind one, each on top of those before it: --configfile demo/config.yaml mine.yaml"
        )
    return parse_args(sys.argv[1:])[1]


OPTIONS = command_line()


def read_configuration():
    """The recipe, and what is particular to a cluster and no part of it, as they are written."""
    if SUBMITTED:
        return SUBMITTED["recipe"], SUBMITTED["cluster"]
    if IS_MODULE:
        recipe = read_recipe([], config)
    else:
        # Snakemake has merged the files in its own way, without regard to kinds of nodes.
        given = {key: with_types(value) for key, value in workflow.config_settings.config.items()}
        recipe = read_recipe(workflow.config_settings.configfiles, given)
    site = read_file(WORKFLOW / "slurm/site.yaml")
    return recipe, on_top(site.get("cluster"), recipe.pop("cluster", {}))


try:
    WRITTEN, site = read_configuration()
    CLUSTER = check_cluster(site)
    RECIPE = check_recipe(WRITTEN, files=workflow.is_main_process)
except ConfigurationError as error:
    raise WorkflowError(str(error)) from None

RESULTS = RECIPE.around.results
SCRIPTS = os.path.relpath(WORKFLOW / "scripts")
LOCK = os.path.relpath(WORKFLOW / f"envs/{RECIPE.around.environment}.lock")
ENVIRONMENT = f"../envs/{RECIPE.around.environment}.yaml"


def result(path):
    """Something made, under the results folder."""
    return f"{RESULTS}/{path}"


def made(path):
    """The manifest of something made; what jobs hand each other."""
    return result(paths.manifest(path))


def place(path):
    """Where something made lies: what rules call `result`, with a module's prefix."""
    return f"{PREFIX}{result(path)}"


def manifest_at(path):
    """Where the manifest of something made lies."""
    return f"{PREFIX}{made(path)}"


def rule_of(job):
    """The name of a job's rule, as it is in this workflow."""
    return RULES.get(job.rule.name, job.rule.name)


def targets_of(node):
    """What is made when a node is asked for by its name."""
    cards = [paths.card(node)] if node in RECIPE.trained else []
    return [made(path) for path in RECIPE.files(node) + cards]


class Untracked:
    """A param that Snakemake does not compare, as it does strings, numbers and containers: what changes no result."""

    def __init__(self, value):
        self.text = value if isinstance(value, str) else canonical(value)

    def __str__(self):
        return self.text


def in_file(text):
    """A file with this text, named by its digest: for what is too long for a command line."""
    file = Path(".snakemake/amberline", f"settings-{value_digest(text)[:16]}.json")
    if not file.exists() or file.read_bytes() != text.encode():
        with whole_file(file) as partial:
            partial.write_text(text, encoding="utf-8")
    return str(file)


class Files:
    """A param by which the shell names what lies beside the manifests of inputs or outputs."""

    def __init__(self, manifests):
        for name, found in manifests.items():
            setattr(self, name, data_of(found) if isinstance(found, str) else [data_of(each) for each in found])


def data_of(manifest):
    """What a manifest describes."""
    folder, name = os.path.split(manifest)
    return folder if name == "manifest.json" else manifest.removesuffix(".manifest.json")


def files_of(wildcards, input):
    """A job's inputs, by their names in the rule."""
    return Files(input)


def files_made(wildcards, output):
    """What a job makes, by the names of the manifests in the rule.

    Manifests alone are its outputs: Snakemake deletes those before a job starts, and programs put new data into the
    place of earlier ones when they are whole. So a try that fails leaves the data that were there.
    """
    return Files(output)


def repeated(option, manifests):
    """An option for each thing that a manifest describes: for one, for several, or for none."""
    each = [manifests] if isinstance(manifests, str) else manifests
    return [word for manifest in each for word in (option, data_of(manifest))]


def settings(chosen):
    """The settings that change a result, as one string: compared exactly, whatever the order of the keys."""
    return canonical(chosen.of(Kind.RESULT))


DIGESTS = {}  # of code that was asked for, by its programs


def code(*programs):
    """Digest of what programs do. In a Slurm job, raises WorkflowError if that changed since it was submitted."""
    found = code_digest(*(WORKFLOW / "scripts" / program for program in programs))
    DIGESTS[" ".join(programs)] = found
    if SUBMITTED and SUBMITTED["code"].get(" ".join(programs), found) != found:
        raise WorkflowError(
            f"the code of scripts/{programs[0]} changed after this job was submitted: it was not started. "
            "Fix: start the pipeline again; it submits the job with the code that is there now"
        )
    return found


def packages(*programs):
    """Versions of the packages that can change what programs make."""
    return package_versions(Path(LOCK), *(WORKFLOW / "scripts" / program for program in programs))


def with_registered(program, *files):
    """A program, and files of registries that it finds by names in its settings."""
    return [program, *(os.path.relpath(file, WORKFLOW / "scripts") for file in files)]


def depends(programs, *outputs, misfit=lambda wildcards: None):
    """Params beside the settings of a rule that makes `outputs`: its code, its packages, and whether all is in order.

    `programs` is a program, or tells the program and registered files of a job. `misfit` may find that what is there is
    not what is asked for.
    """
    found = programs if callable(programs) else lambda wildcards: [programs]
    return {
        "code": lambda wildcards: code(*found(wildcards)),
        "packages": lambda wildcards: canonical(packages(*found(wildcards))),
        "scripts": Untracked(SCRIPTS),
        "tell": lambda wildcards: telling(found(wildcards)[0], wildcards),
        "whole": lambda wildcards: whole(
            [manifest_at(path.format(**wildcards)) for path in outputs], misfit, wildcards
        ),
    }


def telling(program, wildcards):
    """A command that says which job begins, for those who see no more of Snakemake than its progress."""
    words = [value.strip("-") for name, value in wildcards.items() if name != "ending"]
    return Untracked(f"echo {shlex.quote(' '.join(['==', program.removesuffix('.py'), *filter(None, words)]))} >&2;")


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
    if not workflow.is_main_process or workflow.touch:
        return
    # What was made anew since, as after a killed start, is recorded by now.
    left = [each for each in dict.fromkeys(UNRECORDED) if workflow.persistence.params(IOFile(each)) is None]
    if left:
        print(
            f"{len(left)} results, such as {left[0]}, were made elsewhere: .snakemake has no record of them, "
            "so changes of settings and code since then are not noticed. "
            "Fix: if they are of this recipe, add --touch --forceall to the same command once; else delete them",
            file=sys.stderr,
        )


atexit.register(tell_of_unrecorded)


def recorded(output, prefix):
    """The param beginning with `prefix` that Snakemake recorded when it last made `output`; None if there is none."""
    values = [ast.literal_eval(value) for value in workflow.persistence.params(IOFile(output)) or ()]
    return next((value for value in values if isinstance(value, str) and value.startswith(prefix)), None)


# With one of these options Snakemake changes nothing in the results folder.
LOOKS_ONLY = (
    *("dryrun", "lint", "list_rules", "list_target_rules", "dag", "rulegraph", "filegraph", "d3dag", "summary"),
    *("detailed_summary", "list_changes", "list_input_changes", "list_params_changes", "list_untracked", "report"),
    *("print_compilation", "containerize", "export_cwl", "generate_unit_tests", "archive", "list_conda_envs"),
)


def looks_only(options):
    """Whether Snakemake changes nothing with these options; also if it was not started by a user."""
    return options is None or any(getattr(options, option) for option in LOOKS_ONLY)


def tell_of_variants():
    """Before anything starts: what each variant changes and adds."""
    if workflow.is_main_process:
        for variant in RECIPE.variants:
            print(told(variant), file=sys.stderr)


def tell_of_unused():
    """Before anything starts: models that are left of removed variants and nodes stay, and may be deleted."""
    left = models_of_no_node(Path(place("")), RECIPE) if workflow.is_main_process else []
    if left:
        print(
            f"{RESULTS} holds {len(left)} models that are of no node of this recipe, such as {left[0]}: they stay. "
            f"python {SCRIPTS}/unused.py --help tells how to list and delete what no recipe names",
            file=sys.stderr,
        )


def check_targets(options):
    """Stop at a target that is no node, no rule and no file that a rule makes, with the nearest one that is."""
    if IS_MODULE:
        return
    names = [rule.name for rule in workflow.rules]
    for target in options.targets if options else ():
        try:
            check_target(target, names, RESULTS)
        except ConfigurationError as error:
            raise WorkflowError(str(error)) from None
