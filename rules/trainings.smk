"""What trainings share: when they run again, and what becomes of finished ones whose code or packages have changed."""

import atexit

from amberline.training.staleness import Status, changes, cost, keep, kept_for, status
from amberline.objectives.registry import objective_file
from amberline.recipe.export import Exported

# DPO trainings by the ending of their names: AmberSafe itself, and its variants, all from the same reference.
VARIANTS = {"": CONFIG.ambersafe.dpo} | {
    f"-{name}": CONFIG.ambersafe.variant(name) for name in CONFIG.ambersafe.variants
}

OBJECTIVE_OF = {"finetune_amberchat": "sft", "finetune_preferred": "sft", "train_dpo": "dpo"}
RUN_OF = {
    "finetune_amberchat": "training/amberchat/run.json",
    "finetune_preferred": "training/sft/run.json",
    "train_dpo": "training/dpo{variant}/run.json",
}


def training_of(rule, wildcards):
    """The settings of a training."""
    match rule:
        case "finetune_amberchat":
            return CONFIG.amberchat.training
        case "finetune_preferred":
            return CONFIG.ambersafe.sft
        case "train_dpo":
            return VARIANTS[wildcards.variant]


def determining(training):
    """The settings that change a training's weights, as JSON; how its model is written is not among them."""
    return canonical(training.of(Kind.RESULT, without=Exported))


def programs_of(rule):
    """The training program, and the file of the objective, which it finds by its name."""
    file = objective_file(OBJECTIVE_OF[rule])
    return "train.py", os.path.relpath(file, f"{workflow.basedir}/scripts")


def made_with(rule):
    """The code and packages that a training would run with now."""
    return {"code": code(*programs_of(rule)), "packages": packages(*programs_of(rule))}


def manifest_of(rule, wildcards):
    """The manifest of a finished training."""
    return Path(made(RUN_OF[rule].format(variant=getattr(wildcards, "variant", ""))))


def status_of(rule, wildcards):
    """What a finished training is, held against its settings, code and packages now."""
    settings = json.loads(determining(training_of(rule, wildcards)))
    return status(manifest_of(rule, wildcards), settings, made_with(rule))


def trained(rule):
    """Params of a training: its settings; as in `depends`, but what is kept does not run again; what is untracked."""
    PROGRAMS.append(programs_of(rule))

    def made_with_param(wildcards):
        now = canonical(made_with(rule))
        kept = {"keep": {Status.KEPT, Status.STALE}, "ask": {Status.KEPT}, "retrain": set()}[CONFIG.stale]
        if workflow.is_main_process and status_of(rule, wildcards) in kept:
            return recorded(str(manifest_of(rule, wildcards)), '{"code":') or now
        return now

    def to_be_replaced(wildcards):
        kept = CONFIG.stale == "retrain" and kept_for(manifest_of(rule, wildcards))
        return "it was kept, and is to be trained again" if kept else None

    return {
        "settings": lambda wildcards: determining(training_of(rule, wildcards)),
        "made_with": made_with_param,
        "whole": lambda wildcards: whole([str(manifest_of(rule, wildcards))], to_be_replaced, wildcards),
        "packages": Untracked(packages(*programs_of(rule))),
        "runtime": lambda wildcards: runtime(training_of(rule, wildcards)),
    }


def runtime(training):
    """What is kept, watched and told on the way of a training."""
    return Untracked(
        {
            "training": training.of(Kind.RUNTIME),
            "tracking": CONFIG.tracking.of(Kind.RUNTIME),
            "stale": CONFIG.stale,
        }
    )


def kept(rule, wildcards):
    """As JSON, the code and packages for which a training is kept, or will be when this run has started."""
    if CONFIG.stale == "keep" and status_of(rule, wildcards) is Status.STALE:
        return canonical(made_with(rule))
    found = kept_for(manifest_of(rule, wildcards)) if CONFIG.stale != "retrain" else None
    return canonical(found and {"code": found["code"], "packages": found["packages"]})


def trainings(jobs):
    """Those of the jobs that are trainings, as (rule, wildcards, job)."""
    return [(job.rule.name, job.wildcards, job) for job in jobs if job.rule.name in OBJECTIVE_OF]


def stale_trainings():
    """A line for each finished training that is going to run again because code or packages have changed.

    Those that start from one of them are listed as well: their start will be another one.
    """
    if CONFIG.stale != "ask":
        return []
    planned = trainings(job for job in workflow.dag.jobs if workflow.dag.needrun(job))
    stale = {job: (rule, wildcards) for rule, wildcards, job in planned if status_of(rule, wildcards) is Status.STALE}
    lines = []
    for rule, wildcards, job in planned:
        manifest = manifest_of(rule, wildcards)
        run = manifest.with_name("run.json")
        name = os.path.relpath(run.parent, f"{RESULTS}/training")
        if job in stale:
            changed = ", ".join(changes(manifest, made_with(rule)))
            lines.append(f"  {name}: {changed} changed; it took {cost(run)}")
        elif run.exists() and any(each in stale for each in workflow.dag.bfs(workflow.dag.dependencies, job)):
            lines.append(f"  {name}: starts from one of the others; it took {cost(run)}")
    return lines


def decide_on_stale_trainings():
    """Before the first job: stop at stale trainings, or note that they are kept, as `stale` in the recipe says."""
    if CONFIG.stale == "keep":
        for rule, wildcards, _ in trainings(workflow.dag.jobs):
            if status_of(rule, wildcards) is Status.STALE:
                keep(manifest_of(rule, wildcards), made_with(rule))
    # Who touches outputs says that they are as they should be.
    lines = [] if workflow.touch else stale_trainings()
    if lines:
        raise WorkflowError("\n".join(["Finished trainings are stale. Nothing was started.", *lines, STALE_FIX]))


STALE_FIX = (
    "Fix: add one of these to the same command.\n"
    "  To train them again:                                             --config stale=retrain\n"
    "  To use them as they are; manifest, card and report will say so:  --config stale=keep"
)


def tell_of_stale_trainings():
    """At the end of a dry run: what a real one would stop at."""
    if workflow.dryrun and workflow.dag is not None and (lines := stale_trainings()):
        first = "Finished trainings are stale: a real run stops before the first job."
        print("\n".join([first, *lines, STALE_FIX]), file=sys.stderr)


if workflow.is_main_process:
    atexit.register(tell_of_stale_trainings)
