"""What trainings share: when they run again, and what becomes of finished ones whose code or packages have changed."""

import atexit

from amberline.training.staleness import Status, changes, cost, final_weights, forget, keep, kept_for, status
from amberline.training.checkpoint_files import MARKER
from amberline.training.exportable import why_not_exportable
from amberline.objectives.registry import objective_file


def programs_of(model):
    """The training program, and the file of the objective, which it finds by its name."""
    return with_registered("train.py", objective_file(RECIPE.node(model).train))


def made_with(model):
    """The code and packages that a training would run with now."""
    return {"code": code(*programs_of(model)), "packages": packages(*programs_of(model))}


def run_of(model):
    """The manifest of a finished training, by the model that it is named after."""
    return Path(manifest_at(paths.run(model)))


def status_of(model):
    """What a finished training is, held against its settings, code and packages now."""
    return status(run_of(model), json.loads(settings(RECIPE.training(model))), made_with(model))


def trained():
    """Params of a training: its settings; as in `depends`, but what is kept does not run again; what is untracked."""
    return {
        "settings": lambda wildcards: settings(RECIPE.training(wildcards.model)),
        "made_with": lambda wildcards: made_with_param(wildcards.model),
        "whole": lambda wildcards: whole(
            [str(run_of(wildcards.model))], lambda wildcards: run_misfit(wildcards.model), wildcards
        ),
        "packages": lambda wildcards: Untracked(packages(*programs_of(wildcards.model))),
        "runtime": lambda wildcards: runtime(wildcards.model),
        "scripts": Untracked(SCRIPTS),
        "tell": lambda wildcards: telling("train.py", wildcards),
        "checkpoints": Untracked(CHECKPOINTS),
    }


def made_with_param(model):
    """The code and packages of now; where a training is to be used as it is, those that Snakemake recorded."""
    now = canonical(made_with(model))
    used = {"keep": {Status.KEPT, Status.STALE}, "ask": {Status.KEPT}, "retrain": set()}[RECIPE.around.stale]
    if workflow.is_main_process and status_of(model) in used:
        return recorded(str(run_of(model)), '{"code":') or now
    return now


def run_misfit(model):
    """Why a finished training must run again, though nothing that determines it has changed."""
    if RECIPE.around.stale == "retrain" and kept_for(run_of(model), made_with(model)):
        return "it was kept, and is to be trained again"
    return weights_fault(model)


def weights_fault(model):
    """Why a finished training must run again to hand out its weights; None if it need not.

    They may be deleted as soon as every model of them is exported.
    """
    manifest = run_of(model)
    exported = [Path(manifest_at(paths.model(name))) for name in RECIPE.trained if RECIPE.runs[name] == model]
    if not manifest.exists() or all(each.exists() and not find_damage(each) for each in exported):
        return None
    run = manifest.with_name("run.json")
    final = final_weights(run, json.loads(run.read_text(encoding="utf-8"))) if run.exists() else None
    return "its final weights are gone" if final and not (final / MARKER).exists() else None


def runtime(model):
    """What is kept, watched and told on the way of a training."""
    return Untracked(
        {
            "training": RECIPE.training(model).of(Kind.RUNTIME),
            "tracking": RECIPE.around.tracking.of(Kind.RUNTIME),
            "exports": sorted({RECIPE.exported(name).export for name in RECIPE.trained if RECIPE.runs[name] == model}),
            "stale": RECIPE.around.stale,
        }
    )


def kept(model):
    """As JSON, the code and packages for which a training is kept, or will be when this run has started."""
    manifest, now = run_of(model), made_with(model)
    will_be = RECIPE.around.stale == "keep" and status_of(model) is Status.STALE
    is_kept = RECIPE.around.stale != "retrain" and kept_for(manifest, now)
    return canonical(now if will_be or is_kept else None)


def unexportable():
    """A line for each model whose checkpoint is not there, or never will be."""
    runs_again = {job.wildcards.model for job in trainings(workflow.dag.jobs) if workflow.dag.needrun(job)}
    exports = (job for job in workflow.dag.jobs if rule_of(job) == "export" and workflow.dag.needrun(job))
    lines = []
    for model in (job.wildcards.model for job in exports):
        run, training = RECIPE.runs[model], RECIPE.training(model)
        fault = why_not_exportable(
            None if run in runs_again else run_of(run),
            training.checkpoints.every_steps,
            RECIPE.exported(model).export,
            training.evaluation,
        )
        lines += [f"models.{model}.export: {fault}"] if fault else []
    return lines


def refuse_unexportable():
    """Before the first job: stop at models whose checkpoint is not there, or never will be."""
    if lines := unexportable():
        raise WorkflowError("\n".join(["Nothing was started.", *lines]))


def trainings(jobs):
    """Those of the jobs that are trainings."""
    return [job for job in jobs if rule_of(job) == "train"]


def asked_otherwise(job):
    """Whether a training runs again because a setting or a raw file before it has changed: that is no question."""
    for each in workflow.dag.bfs(workflow.dag.dependencies, job):
        reason = workflow.dag.reason(each)
        if not workflow.dag.needrun(each):
            continue
        new = {ast.literal_eval(value) for value in getattr(reason.params_changed, "only_new", ())}
        acquired_anew = rule_of(each).startswith("acquire") and any(str(value).startswith("made: ") for value in new)
        if acquired_anew or reason.input_changed or getattr(each.params, "settings", None) in new:
            return True
    return False


def stale_jobs():
    """The trainings that are finished and whose code or packages have changed."""
    return [
        job
        for job in trainings(workflow.dag.jobs)
        if status_of(job.wildcards.model) is Status.STALE and not asked_otherwise(job)
    ]


def stale_trainings():
    """A line for each finished training that is going to run again because code or packages have changed.

    Those that start from one of them are listed as well: their start will be another one.
    """
    if RECIPE.around.stale != "ask":
        return []
    stale = {job for job in stale_jobs() if workflow.dag.needrun(job)}
    lines = []
    for job in trainings(job for job in workflow.dag.jobs if workflow.dag.needrun(job)):
        model = job.wildcards.model
        manifest = run_of(model)
        run = manifest.with_name("run.json")
        if job in stale:
            changed = ", ".join(changes(manifest, made_with(model)))
            lines.append(f"  {model}: {changed} changed; it took {cost(run)}")
        elif run.exists() and any(each in stale for each in workflow.dag.bfs(workflow.dag.dependencies, job)):
            lines.append(f"  {model}: starts from one of the others; it took {cost(run)}")
    return lines


def settle_stale_trainings():
    """Note of trainings that they are kept, where the recipe or --touch says so, and forget it where it is over."""
    for job in trainings(workflow.dag.jobs):
        forget(run_of(job.wildcards.model), made_with(job.wildcards.model))
    # Who touches outputs says that they are as they should be.
    if RECIPE.around.stale == "keep" or workflow.touch:
        for job in stale_jobs():
            keep(run_of(job.wildcards.model), made_with(job.wildcards.model))


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
        if lines := unexportable():
            print("\n".join(["A real run stops before the first job.", *lines]), file=sys.stderr)
        if lines := stale_trainings():
            first = "Finished trainings are stale: a real run stops before the first job."
            print("\n".join([first, *lines, STALE_FIX]), file=sys.stderr)
    elif RECIPE.around.stale == "keep" and not looks_only(OPTIONS):
        settle_stale_trainings()


if workflow.is_main_process:
    atexit.register(at_the_end)
