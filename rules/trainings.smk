"""What trainings share: when they run again, and what becomes of finished ones whose code or packages have changed."""

import atexit

from amberline.training.staleness import Status, changes, cost, final_weights, forget, keep, kept_for, status
from amberline.training.checkpoint_files import MARKER
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
MODEL_OF = {
    "finetune_amberchat": "models/amberchat",
    "finetune_preferred": "models/ambersafe-sft",
    "train_dpo": "models/ambersafe{variant}",
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

    def misfit(wildcards):
        if CONFIG.stale == "retrain" and kept_for(manifest_of(rule, wildcards), made_with(rule)):
            return "it was kept, and is to be trained again"
        return weights_fault(rule, wildcards)

    return {
        "settings": lambda wildcards: determining(training_of(rule, wildcards)),
        "made_with": made_with_param,
        "whole": lambda wildcards: whole([str(manifest_of(rule, wildcards))], misfit, wildcards),
        "packages": Untracked(packages(*programs_of(rule))),
        "runtime": lambda wildcards: runtime(training_of(rule, wildcards)),
    }


def weights_fault(rule, wildcards):
    """Why a finished training must run again to hand out its weights; None if it need not.

    They may be deleted as soon as the model is exported.
    """
    manifest = manifest_of(rule, wildcards)
    model = Path(made(MODEL_OF[rule].format(variant=getattr(wildcards, "variant", ""))))
    if not manifest.exists() or (model.exists() and not find_damage(model)):
        return None
    run = manifest.with_name("run.json")
    final = final_weights(run, json.loads(run.read_text(encoding="utf-8"))) if run.exists() else None
    return "its final weights are gone" if final and not (final / MARKER).exists() else None


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
    manifest, now = manifest_of(rule, wildcards), made_with(rule)
    will_be = CONFIG.stale == "keep" and status_of(rule, wildcards) is Status.STALE
    is_kept = CONFIG.stale != "retrain" and kept_for(manifest, now)
    return canonical(now if will_be or is_kept else None)


def trainings(jobs):
    """Those of the jobs that are trainings, as (rule, wildcards, job)."""
    return [(job.rule.name, job.wildcards, job) for job in jobs if job.rule.name in OBJECTIVE_OF]


def asked_otherwise(job):
    """Whether a training runs again because a setting or a raw file before it has changed: that is no question."""
    for each in workflow.dag.bfs(workflow.dag.dependencies, job):
        changed = workflow.dag.reason(each).params_changed if workflow.dag.needrun(each) else None
        new = {ast.literal_eval(value) for value in getattr(changed, "only_new", ())}
        acquired_anew = each.rule.name.startswith("acquire") and any(str(value).startswith("made: ") for value in new)
        if acquired_anew or getattr(each.params, "settings", None) in new:
            return True
    return False


def stale_jobs():
    """The trainings, by their jobs, that are finished and whose code or packages have changed."""
    return {
        job: (rule, wildcards)
        for rule, wildcards, job in trainings(workflow.dag.jobs)
        if status_of(rule, wildcards) is Status.STALE and not asked_otherwise(job)
    }


def stale_trainings():
    """A line for each finished training that is going to run again because code or packages have changed.

    Those that start from one of them are listed as well: their start will be another one.
    """
    if CONFIG.stale != "ask":
        return []
    stale = {job for job in stale_jobs() if workflow.dag.needrun(job)}
    lines = []
    for rule, wildcards, job in trainings(job for job in workflow.dag.jobs if workflow.dag.needrun(job)):
        manifest = manifest_of(rule, wildcards)
        run = manifest.with_name("run.json")
        name = os.path.relpath(run.parent, f"{RESULTS}/training")
        if job in stale:
            changed = ", ".join(changes(manifest, made_with(rule)))
            lines.append(f"  {name}: {changed} changed; it took {cost(run)}")
        elif run.exists() and any(each in stale for each in workflow.dag.bfs(workflow.dag.dependencies, job)):
            lines.append(f"  {name}: starts from one of the others; it took {cost(run)}")
    return lines


def settle_stale_trainings():
    """Note of trainings that they are kept, where the recipe or --touch says so, and forget it where it is over."""
    for rule, wildcards, _ in trainings(workflow.dag.jobs):
        forget(manifest_of(rule, wildcards), made_with(rule))
    # Who touches outputs says that they are as they should be.
    if CONFIG.stale == "keep" or workflow.touch:
        for rule, wildcards in stale_jobs().values():
            keep(manifest_of(rule, wildcards), made_with(rule))


def decide_on_stale_trainings():
    """Before the first job: stop at stale trainings, or note that they are kept, as `stale` in the recipe says."""
    lines = [] if workflow.touch else stale_trainings()
    if lines:
        raise WorkflowError("\n".join(["Finished trainings are stale. Nothing was started.", *lines, STALE_FIX]))
    settle_stale_trainings()


STALE_FIX = (
    "Fix: add one of these to the same command.\n"
    "  To train them again:                                             --config stale=retrain\n"
    "  To use them as they are; manifest, card and report will say so:  --config stale=keep"
)


def at_the_end():
    """Of a dry run: tell what a real one would stop at. Of a run with nothing to do: settle what it leaves as it is."""
    if workflow.dag is None:
        return
    if workflow.dryrun:
        if lines := stale_trainings():
            first = "Finished trainings are stale: a real run stops before the first job."
            print("\n".join([first, *lines, STALE_FIX]), file=sys.stderr)
    elif CONFIG.stale == "keep" and not looks_only(command_line()):
        settle_stale_trainings()


if workflow.is_main_process:
    atexit.register(at_the_end)
