"""A training stage from its folders to its final weights: everything around the loop."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedConfig

from amberline.batches.layout import largest_share, lay_out
from amberline.batches.plan import BatchPlan, PlanError, Step, plan_batches, target_weights
from amberline.core.files import whole_file
from amberline.core.locks import LockError
from amberline.core.tensors import weights_digest
from amberline.data.tokens import BadTokens
from amberline.hub.model_names import ModelError
from amberline.model.architecture import dropouts
from amberline.model.files import read_config
from amberline.model.load import load_model
from amberline.model.probe import probe
from amberline.model.sizes import sizes_of
from amberline.model.weights import CheckpointWeights, DigestedWeights
from amberline.objectives.base import Objective, ObjectiveError
from amberline.objectives.settings import Training
from amberline.recipe.hardware import Hardware
from amberline.recipe.tracking import Tracking
from amberline.training.autotune import Choices, Load, choose, expected_peak
from amberline.training.checkpoint_files import complete, read_marker, verified
from amberline.training.checkpoints import CheckpointError, Checkpoints
from amberline.training.curve import CurveError, check_curve, read_metrics
from amberline.training.determinism import settle_determinism
from amberline.training.exportable import asked_step, export_facts, note_watched, why_never_there
from amberline.training.loop import Heldout, Run, train
from amberline.training.metrics import Metrics
from amberline.training.monitors import Monitor, TrainingStopped
from amberline.training.optimizers import make_optimizer
from amberline.training.ranks import FirstRankFailed, Ranks
from amberline.training.run_directory import RunDirectory, RunDirectoryError, enter, release
from amberline.training.shapes import Shape, settle_shape
from amberline.training.speed import expected_step_seconds, told_time

# What a program reports as one message: see `complain`.
FAILURES = (
    BadTokens,
    CheckpointError,
    CurveError,
    FirstRankFailed,
    LockError,
    ModelError,
    ObjectiveError,
    RunDirectoryError,
    PlanError,
    TrainingStopped,
    OSError,
)


@dataclass(frozen=True)
class Stage:
    """What a program asks for."""

    directory: RunDirectory
    model: Path  # Hugging Face folder to start from
    objective: Objective
    heldout: Objective | None
    watched: Mapping[str, Any]  # how it is evaluated: every_examples, examples, and tokens, the digest of those rows
    exports: Sequence[str]  # which checkpoints may become models: last, best or step N
    settings: Training
    hardware: Hardware
    tracking: Tracking
    stale: str  # what becomes of a finished run that was made with other code or packages: ask, retrain or keep


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    directory: RunDirectory
    weights: str  # digest of the final weights


def train_stage(stage: Stage, ranks: Ranks) -> Finished | None:
    """Train until the final weights are in the run directory; continue where an interrupted run left off.

    Returns None after a signal: the state is saved, and the same command goes on from there. Raises one of FAILURES.
    """
    directory, notes = ranks.from_first(lambda: enter(stage.directory, stage.stale))
    try:
        say(ranks, *notes)
        if ranks.from_first(lambda: _is_finished(directory)):
            say(ranks, "already finished: the final weights are there")
        elif directory.kept:
            raise CheckpointError(
                f"{directory.final} is to be kept, and its files are not as they were written. Fix: train again, with "
                "--config stale=retrain"
            )
        elif not _train(replace(stage, directory=directory), ranks):
            return None
        return Finished(directory, _weights_digest(directory, ranks))
    finally:
        if ranks.first:
            release(directory)


def _train(stage: Stage, ranks: Ranks) -> bool:
    settings = stage.settings
    lengths, targets = stage.objective.sizes()
    plan = plan_batches(
        lengths,
        targets,
        seed=settings.seed,
        epochs=settings.epochs,
        global_batch=settings.global_batch,
        partial_batch=settings.partial_batch,
        loss_normalization=settings.loss_normalization,
        micro_batch_examples=settings.micro_batch_examples,
    )
    say(
        ranks,
        f"{len(lengths):,} examples, {lengths.sum():,} tokens, {targets.sum():,} of them with loss; "
        f"{plan.steps:,} steps of {settings.global_batch}, in {settings.epochs} epochs",
    )
    ranks.from_first(lambda: _check_exports(stage, plan.steps))
    torch.manual_seed(settings.seed)
    settle_determinism(stage.hardware, ranks.device)
    if settings.tf32 and ranks.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    config = read_config(stage.model)
    sizes = sizes_of(config)
    choices = choose(stage.hardware, settings, sizes, ranks, _load(plan, ranks.world))
    say(ranks, f"{ranks.world} processes on {ranks.device.type}", *choices.notes, *_without_dropout(config))
    probe(
        config,
        device=ranks.device,
        dtype=getattr(torch, settings.precision),
        attention=choices.attention,
        activation_checkpointing=choices.activation_checkpointing,
        compile=choices.compile,
    )
    heldout = _heldout(stage)
    shape = _shape(plan, heldout, choices, ranks)
    tokens, micro_targets = _largest_micro_batch(plan, choices.micro_batch_tokens, ranks.world)
    if shape:
        tokens = shape.tokens
    softmaxes = micro_targets if stage.objective.log_probabilities else 0
    peak = expected_peak(choices, settings, sizes, ranks, tokens=tokens, softmaxes=softmaxes)
    say(ranks, f"memory: about {peak / 1e9:.2f} GB a process at its peak, in micro-batches of up to {tokens:,} tokens")
    model = load_model(
        stage.model,
        device=ranks.device,
        mesh=ranks.mesh(choices.shards),
        compute_dtype=getattr(torch, settings.precision),
        attention=choices.attention,
        activation_checkpointing=choices.activation_checkpointing,
        reshard_after_forward=choices.reshard_after_forward,
        compile=choices.compile,
        one_shape=shape is not None,
    )
    optimizer = make_optimizer(model, settings.optimizer)
    checkpoints = Checkpoints(
        stage.directory.folder,
        settings.checkpoints.keep,
        stage.exports,
        plan.digest,
        ranks,
        lambda text: say(ranks, text),
    )
    start = 0
    if (found := checkpoints.newest()) is not None:
        checkpoints.load(found, model, optimizer)
        start = found.step
        say(ranks, f"continuing after step {start} from {found.folder}")
    say(ranks, *told_time(expected_step_seconds(plan, choices, settings, sizes, ranks), plan.steps - start))
    metrics = _open_metrics(stage, ranks, start, plan.steps)
    run = Run(
        ranks=ranks,
        directory=stage.directory,
        settings=settings,
        sizes=sizes,
        model=model,
        optimizer=optimizer,
        objective=stage.objective,
        plan=plan,
        heldout=heldout,
        micro_batch_tokens=choices.micro_batch_tokens,
        shape=shape,
        compiled=choices.compile,
        keep_gathered=not choices.reshard_after_forward,
        reduce_each=choices.accumulated == "shards",
        checkpoints=checkpoints,
        metrics=metrics,
        watch=_watch(stage, ranks, start),
    )
    try:
        done = train(run, start)
        if done == plan.steps:
            checkpoints.save_final(done, model)
    finally:
        checkpoints.wait()
        if metrics:
            metrics.close()
    if done < plan.steps and ranks.first:
        _ask_to_requeue(stage.directory, done)
    return done == plan.steps


def _without_dropout(config: PreTrainedConfig) -> Iterator[str]:
    """What to say of a model that was trained with dropout."""
    for name, value in dropouts(config).items():
        yield f"{name}: 0, and not {value:g} as in config.json, because trainings here are without dropout"


def _check_exports(stage: Stage, steps: int) -> None:
    """Raise CheckpointError before the first step if a checkpoint to export would not be there after the last."""
    for export in stage.exports:
        _check_export(stage, export, steps)


def _check_export(stage: Stage, export: str, steps: int) -> None:
    there = [each.step for each in complete(stage.directory.folder)]
    step = asked_step(export)
    if step is None or (step < steps and step not in there):
        fault = why_never_there(stage.settings.checkpoints.every_steps, export, stage.settings.evaluation)
    else:
        fault = f"{export}: the training has {steps} steps" if step > steps else None
    if fault is None and step is not None and step not in there and there and step < there[-1]:
        fault = f"{export} is done, and its checkpoint was not kept; there are: {', '.join(map(str, there))}"
    if fault is None and export == "best" and stage.heldout is None:
        fault = "best: there are no held-out examples to evaluate on"
    if fault:
        raise CheckpointError(f"export: {fault}. Nothing was started")


def _load(plan: BatchPlan, world: int) -> Load:
    """What the plan's steps ask of a process."""
    return Load(largest_share(_lengths(plan), world), int(plan.lengths.max()))


def _lengths(plan: BatchPlan) -> Iterator[list[int]]:
    """Tokens of the examples of each step."""
    return (plan.lengths[plan.examples(step)].tolist() for step in range(plan.steps))


def _shape(plan: BatchPlan, heldout: Heldout | None, choices: Choices, ranks: Ranks) -> Shape | None:
    """The shape that all micro-batches are padded to, where layers are compiled on a GPU and it pays."""
    if not choices.compile or ranks.device.type == "cpu":
        return None
    watched = heldout.lengths if heldout else []
    shape, why = settle_shape(_lengths(plan), watched, choices.micro_batch_tokens, ranks.world)
    say(ranks, f"layers: {why}")
    return shape


def _largest_micro_batch(plan: BatchPlan, budget: int, world: int) -> tuple[int, int]:
    """Tokens and targets of the first step's largest micro-batch; other steps are much alike."""
    step = plan.examples(0)
    lengths, targets = plan.lengths[step], plan.targets[step]
    micro_batches = [each for of_rank in lay_out(lengths.tolist(), budget, world) for each in of_rank]
    return max((int(lengths[each].sum()), int(targets[each].sum())) for each in micro_batches)


def _open_metrics(stage: Stage, ranks: Ranks, start: int, steps: int) -> Metrics | None:
    """Where the curve goes, on the first process. What fails there ends all of them."""
    opened: list[Metrics] = []

    def on_first() -> None:
        note_watched(stage.directory.folder, stage.watched, start)
        opened.append(Metrics(stage.directory.folder, stage.directory.stage, stage.tracking, start, steps))

    ranks.from_first(on_first)
    return opened[0] if opened else None


def _watch(stage: Stage, ranks: Ranks, start: int) -> Monitor:
    """Rules on the curve, with the steps before a resume in mind."""
    watch = Monitor(stage.settings.monitors)
    lines = ranks.from_first(lambda: read_metrics(stage.directory.metrics))
    for line in lines:
        if "loss" in line and line["step"] <= start:
            watch.remember(line)
    return watch


def _heldout(stage: Stage) -> Heldout | None:
    """The first held-out examples, as one step: a mean over tokens, or over sequences for losses that are sums."""
    wanted = stage.settings.evaluation.examples if stage.settings.evaluation.every_examples else 0
    if stage.heldout is None or wanted == 0:
        return None
    lengths, targets = (sizes[:wanted] for sizes in stage.heldout.sizes())
    if not targets.any():
        raise PlanError("the held-out examples have no token with loss: set evaluation.examples to 0, or fix them")
    per_sequence = stage.settings.loss_normalization == "sum_per_sequence"
    weights = target_weights(targets, "sum_per_sequence" if per_sequence else "token_mean", 1)
    step = Step(np.arange(len(lengths)), weights, int(targets.sum()))
    return Heldout(stage.heldout, step, lengths.tolist(), decides="best" in stage.exports)


def _is_finished(directory: RunDirectory) -> bool:
    marker = read_marker(directory.final)
    return marker is not None and verified(marker)


def _ask_to_requeue(directory: RunDirectory, steps: int) -> None:
    with whole_file(directory.requeue) as partial:
        partial.write_text(json.dumps({"directory": directory.folder.name, "steps": steps}) + "\n", encoding="utf-8")
    print(f"stopped on request after step {steps}; start the same command again to go on", file=sys.stderr)


def _weights_digest(directory: RunDirectory, ranks: Ranks) -> str:
    """Digest of the final weights; each process reads its part of the tensors, one at a time."""
    weights = DigestedWeights(CheckpointWeights(directory.final))
    for name in sorted(weights.shapes())[ranks.rank :: ranks.world]:
        weights.read([name])
    parts = ranks.gather(weights.digests)
    return weights_digest({name: digest for part in parts for name, digest in part.items()})


def write_summary(finished: Finished, run: Path, metrics: Path) -> Mapping[str, Any]:
    """Write `run`, which says where the final weights are and what they are, and the curve. Returns what it says."""
    directory = finished.directory
    marker = read_marker(directory.final)
    if marker is None:
        raise CheckpointError(f"there are no final weights in {directory.final}")
    curve = read_metrics(directory.metrics)
    check_curve(directory.metrics, curve, marker.step)
    lines = [line for line in curve if "loss" in line]
    summary = {
        "stage": directory.stage,
        # Relative to this file, so that results can be moved as a whole.
        "final_weights": os.path.relpath(directory.final, run.parent),
        "weights_sha256": finished.weights,
        "steps": marker.step,
        "examples": sum(line["examples"] for line in lines),
        "tokens": sum(line["tokens"] for line in lines),
        "loss_tokens": sum(line["loss_tokens"] for line in lines),
        "final_metrics": lines[-1],
        **export_facts(directory.folder, run),
    }
    with whole_file(metrics) as partial:
        shutil.copyfile(directory.metrics, partial)
    with whole_file(run) as partial:
        partial.write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return summary


def say(ranks: Ranks, *sentences: str) -> None:
    """Log, from the first process."""
    if ranks.first:
        for sentence in sentences:
            tqdm.write(sentence, file=sys.stderr)
