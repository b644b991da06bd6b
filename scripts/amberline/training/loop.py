"""The training loop: one for all objectives."""

import json
import math
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn

from amberline.batches.layout import lay_out
from amberline.batches.plan import BatchPlan, Step
from amberline.core.files import whole_file
from amberline.model.estimates import training_flops
from amberline.model.sizes import ModelSizes
from amberline.objectives.base import MicroBatch, Objective
from amberline.objectives.settings import Training
from amberline.training.checkpoints import Checkpoints
from amberline.training.compiled import lost_compilation
from amberline.training.curve import Line
from amberline.training.gradients import clip, squared_gradients, synchronise
from amberline.training.metrics import Metrics
from amberline.training.monitors import Monitor, TrainingStopped, is_sound
from amberline.training.optimizers import learning_rates, set_learning_rate
from amberline.training.ranks import Ranks
from amberline.training.run_directory import RunDirectory
from amberline.training.shapes import Shape
from amberline.training.signals import StopRequest
from amberline.training.speed import peak_flops


@dataclass(frozen=True)
class Heldout:
    """Examples that are evaluated on, and never trained on."""

    objective: Objective
    step: Step
    lengths: list[int]  # tokens of each
    decides: bool  # the checkpoint with the least loss is exported: there is one at each evaluation, and at the end


@dataclass(frozen=True)
class Run:
    """All that the loop works with."""

    ranks: Ranks
    directory: RunDirectory
    settings: Training
    sizes: ModelSizes
    model: nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective
    plan: BatchPlan
    heldout: Heldout | None
    micro_batch_tokens: int
    shape: Shape | None  # that all micro-batches are padded to
    compiled: bool  # layers, as far as torch can
    keep_gathered: bool  # parameters between the micro-batches of a step
    reduce_each: bool  # gradients of each micro-batch, instead of once a step
    checkpoints: Checkpoints
    metrics: Metrics | None  # on the first process only
    watch: Monitor


def train(run: Run, start: int) -> int:
    """Take the steps from `start` on. Returns the number of steps that are done: fewer than planned after a signal.

    Raises TrainingStopped when a guard stops the run, CheckpointError when the state cannot be written.
    """
    rate = learning_rates(run.settings.schedule, run.settings.learning_rate, run.plan.steps)
    if start == 0:
        _check_reference(run)
    if start == run.plan.steps:
        _evaluate_the_end(run)
        _sync_metrics(run)
        return start
    with StopRequest() as stop, ThreadPoolExecutor(1, initializer=_use_device, initargs=(run.ranks.device,)) as reader:
        # The next step's micro-batches are read and packed while this one is computed.
        reading = reader.submit(_micro_batches, run, start)
        for number in range(start, run.plan.steps):
            if run.heldout and run.plan.evaluation_due(number, run.settings.evaluation.every_examples):
                _evaluate(run, run.heldout, number)
            began = time.perf_counter()
            step, micro_batches = reading.result()
            last = number + 1 == run.plan.steps
            if not last:
                reading = reader.submit(_micro_batches, run, number + 1)

            sums = _forward_and_backward(run, micro_batches)
            # The one wait for the device in a step, and one all-gather: loss, metrics, squared gradient norm, stop and
            # failure flags.
            found = torch.cat([sums, squared_gradients(run.model)[None]]).tolist()
            loss, *metrics, squares, stops, failures = run.ranks.add(
                [*found, stop.received is not None, _has_failed(run)]
            )
            norm = math.sqrt(squares)
            if not is_sound(loss, norm):
                _stop_unsound(run, number, loss, norm, micro_batches)
            clip(run.model, norm, run.settings.max_grad_norm)
            set_learning_rate(run.optimizer, rate(number))
            run.optimizer.step()
            run.optimizer.zero_grad()

            line = _line(run, number, step) | {"loss": loss, "grad_norm": norm, "learning_rate": rate(number)}
            line |= zip(run.objective.metrics, metrics, strict=True)
            if run.metrics:
                run.metrics.training(line, _timing(run, step, number, time.perf_counter() - began))
            if failures:
                run.checkpoints.wait_and_check()
                _sync_metrics(run)
            if stops or last or _checkpoint_due(run, number + 1):
                _sync_metrics(run)
                run.checkpoints.save(number + 1, run.model, run.optimizer)
            _watch(run, line)
            if number == start:
                _say_what_is_not_compiled(run)
            if stops:
                break
        run.checkpoints.wait_and_check()
        if last:
            _evaluate_the_end(run)
        _sync_metrics(run)
        return number + 1


def _has_failed(run: Run) -> bool:
    """Whether a checkpoint or the curve could not be written."""
    return run.checkpoints.failure is not None or (run.metrics is not None and run.metrics.failure is not None)


def _sync_metrics(run: Run) -> None:
    """Have the disk hold the curve; where that fails, all processes end."""

    def sync() -> None:
        if run.metrics:
            run.metrics.sync()

    run.ranks.from_first(sync)


def _checkpoint_due(run: Run, done: int) -> bool:
    """Whether the state after `done` steps is written."""
    if run.heldout and run.heldout.decides and run.plan.evaluation_due(done, run.settings.evaluation.every_examples):
        return True
    return done % run.settings.checkpoints.every_steps == 0


def _use_device(device: torch.device) -> None:
    """What a thread pins memory for: without a word it would be the first GPU, whichever is this process's."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _micro_batches(run: Run, number: int) -> tuple[Step, list[MicroBatch]]:
    """A step, and this process's micro-batches of it, ready to be copied to the device."""
    step = run.plan.step(number)
    micro_batches = _lay_out(run, run.objective, step, run.plan.lengths[step.examples].tolist())
    on_gpu = run.ranks.device.type == "cuda"
    return step, [each.pinned() if on_gpu else each for each in micro_batches]


def _lay_out(run: Run, objective: Objective, step: Step, lengths: list[int]) -> Iterator[MicroBatch]:
    for positions in lay_out(lengths, run.micro_batch_tokens, run.ranks.world)[run.ranks.rank]:
        found = objective.micro_batch(step.examples[positions].tolist(), step.weights[positions].tolist(), step)
        yield found.padded(run.shape.tokens, run.shape.longest) if run.shape else found


def _forward_and_backward(run: Run, micro_batches: list[MicroBatch]) -> torch.Tensor:
    """Accumulate gradients. Returns the sums of this process: the loss, then the objective's metrics.

    Nothing here waits for the device, which has the next micro-batch's work before it has done this one's.
    """
    sums = torch.zeros(1 + len(run.objective.metrics), dtype=torch.float64, device=run.ranks.device)
    for number, micro_batch in enumerate(micro_batches):
        synchronise(
            run.model,
            last=number + 1 == len(micro_batches),
            keep_gathered=run.keep_gathered,
            reduce_each=run.reduce_each,
        )
        contribution = run.objective(run.model, micro_batch.to(run.ranks.device))
        contribution.loss.backward()
        values = [contribution.loss.detach(), *(contribution.metrics[name] for name in run.objective.metrics)]
        sums += torch.stack([value.double() for value in values])
    return sums


@torch.no_grad()
def _evaluate(run: Run, heldout: Heldout, steps_done: int) -> None:
    """The objective's metrics on held-out examples."""
    sums = torch.zeros(1 + len(heldout.objective.metrics), dtype=torch.float64, device=run.ranks.device)
    for micro_batch in _lay_out(run, heldout.objective, heldout.step, heldout.lengths):
        contribution = heldout.objective(run.model, micro_batch.to(run.ranks.device))
        values = [contribution.loss, *(contribution.metrics[name] for name in heldout.objective.metrics)]
        sums += torch.stack([value.double() for value in values])
    totals = run.ranks.add(sums.tolist())
    if run.metrics:
        names = ("loss", *heldout.objective.metrics)
        run.metrics.heldout(
            {"step": steps_done, **{f"heldout/{name}": total for name, total in zip(names, totals, strict=True)}}
        )


def _evaluate_the_end(run: Run) -> None:
    """Where the least loss decides, the last checkpoint has one, too."""
    if run.heldout and run.heldout.decides:
        _evaluate(run, run.heldout, run.plan.steps)


@torch.no_grad()
def _check_reference(run: Run) -> None:
    """Before the first step, policy and reference are the same model: their log-probabilities have to agree."""
    exact = run.settings.precision == "float32" and not (run.settings.tf32 and run.ranks.device.type == "cuda")
    tolerance = 1e-4 if exact else 2e-2
    distances = [
        run.objective.distance_from_reference(run.model, micro_batch.to(run.ranks.device)) or 0.0
        for micro_batch in _micro_batches(run, 0)[1]
    ]
    distance = max(run.ranks.gather(max(distances)))
    if not distance <= tolerance:
        raise TrainingStopped(
            f"before the first step, the reference's log-probabilities differ from the model's by {distance:.2g} of "
            f"their size ({tolerance:g} is allowed), though both should be the same model, and the reward margin 0: "
            "the reference was scored with other weights or in another precision; score it again"
        )


@torch.no_grad()
def _stop_unsound(run: Run, number: int, loss: float, norm: float, micro_batches: list[MicroBatch]) -> NoReturn:
    """Write down which examples were in the step, and which of them have a loss that is not finite; then stop."""
    here: list[dict[str, Any]] = []
    for micro_batch in micro_batches:
        losses = run.objective.example_losses(run.model, micro_batch.to(run.ranks.device)).tolist()
        ids = run.objective.ids(micro_batch.examples)
        rows = zip(ids, micro_batch.examples, losses, strict=False)
        here += [{"id": name, "row": row, "process": run.ranks.rank, "loss": repr(each)} for name, row, each in rows]
    examples = [example for each in run.ranks.gather(here) for example in each]
    guilty = [example["id"] for example in examples if not math.isfinite(float(example["loss"]))]
    what = "loss" if not math.isfinite(loss) else "gradient"
    report = run.directory.folder / f"not-finite-{number + 1:08d}.json"
    if run.ranks.first:
        found = {"step": number + 1, "loss": repr(loss), "grad_norm": repr(norm), "not_finite": guilty}
        with whole_file(report) as partial:
            partial.write_text(json.dumps(found | {"examples": examples}, indent=1) + "\n", encoding="utf-8")
    named = f"in {', '.join(map(repr, guilty[:3]))}" if guilty else "though each example's loss is"
    raise TrainingStopped(
        f"the {what} of step {number + 1} is not finite ({named}): stopped before the update. The examples of the step "
        f"are in {report}; the checkpoints of earlier steps are good"
    )


def _say_what_is_not_compiled(run: Run) -> None:
    """It is known after a step."""
    if run.compiled and run.metrics and (sentence := lost_compilation()):
        run.metrics.warn(sentence)


def _watch(run: Run, line: Line) -> None:
    """Apply the rules on the curve; all processes see the same metrics and decide alike."""
    for sentence in run.watch.judge(line):
        if run.settings.monitors.action == "stop":
            run.checkpoints.wait()
            raise TrainingStopped(f"step {line['step']}: {sentence}; stopped, because monitors.action is stop")
        if run.metrics:
            run.metrics.warn(f"step {line['step']}: {sentence}")


def _line(run: Run, number: int, step: Step) -> Line:
    """What the plan says of a step."""
    return {
        "step": number + 1,
        "epoch": run.plan.examples_before(number + 1) / len(run.plan.lengths),
        "examples": len(step.examples),
        "tokens": int(run.plan.lengths[step.examples].sum()),
        "loss_tokens": step.targets,
    }


def _timing(run: Run, step: Step, number: int, seconds: float) -> Line:
    """What the machine made of a step."""
    lengths, device = run.plan.lengths[step.examples].tolist(), run.ranks.device
    timing: Line = {"step": number + 1, "seconds": seconds, "tokens_per_second": sum(lengths) / seconds}
    peak = peak_flops(device, run.settings.precision, run.settings.tf32)
    if peak is not None:
        timing["mfu"] = training_flops(run.sizes, lengths) / (seconds * peak * run.ranks.world)
    if device.type == "cuda":
        timing["memory_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    else:
        timing["memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return timing
