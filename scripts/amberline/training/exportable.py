"""Which checkpoint of a training becomes the model: the last, the one with the least held-out loss, or one by its step.

The last is `final/`; the others are checkpoints, of which a training keeps the one that may be exported. Held-out
losses are those of the curve, at exactly the step of a checkpoint. A training notes beside it, in `watched.json`, what
they are losses of, so that losses on other examples are never compared.

Rules ask this before any job starts, so nothing here needs torch.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amberline.core.files import whole_file
from amberline.objectives.settings import HeldoutEvaluation
from amberline.training.checkpoint_files import complete, read_marker
from amberline.training.curve import read_metrics

WATCHED = "watched.json"
NOT_WATCHED: Mapping[str, Any] = {"every_examples": 0, "examples": 0, "tokens": None}


class NotExportable(Exception):
    """The checkpoint that is asked for is not there, or never will be."""


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that may become the model."""

    step: int
    folder: Path
    heldout_loss: float | None  # None: there was no evaluation at exactly this step


def asked_step(export: str) -> int | None:
    """The N of `step N`."""
    return int(export.removeprefix("step ")) if export.startswith("step ") else None


def note_watched(directory: Path, watched: Mapping[str, Any], start: int) -> None:
    """Note on what a training is evaluated from here on; losses on other examples, before `start`, no longer count."""
    before = _noted(directory)
    same = before is not None and all(before[key] == watched[key] for key in ("examples", "tokens"))
    since = before["since_step"] if before and same else start
    with whole_file(directory / WATCHED) as partial:
        partial.write_text(json.dumps({**watched, "since_step": since}, indent=1) + "\n", encoding="utf-8")


def heldout_losses(directory: Path) -> dict[int, float]:
    """Held-out losses of the curve by step, those that can be compared; the untrained model's is not among them."""
    since = (_noted(directory) or {}).get("since_step", 0)
    return {
        line["step"]: line["heldout/loss"]
        for line in read_metrics(directory / "metrics.jsonl")
        if math.isfinite(line.get("heldout/loss", math.nan)) and line["step"] >= max(since, 1)
    }


def spared_steps(directory: Path, export: str, newest: int) -> set[int]:
    """Steps whose checkpoints may be exported, and are not deleted while `newest` is the last one that was written."""
    if (step := asked_step(export)) is not None:
        return {step}
    if export == "last":
        return set()
    losses, there = heldout_losses(directory), [each.step for each in complete(directory)]
    # Not the newest: whether it is evaluated already is chance. It is kept in any case.
    evaluated = [step for step in there if step in losses and step < newest]
    return {min(evaluated, key=lambda step: (losses[step], step))} if evaluated else set()


def export_facts(directory: Path, run: Path) -> dict[str, Any]:
    """What the summary `run` of a finished training says of its checkpoints; folders are relative to it."""
    noted, losses = _noted(directory) or {}, heldout_losses(directory)
    there = [*complete(directory), *filter(None, [read_marker(directory / "final")])]
    least = min(losses, key=lambda step: (losses[step], step)) if losses else None
    return {
        # As it was at the end.
        "watched": {key: noted.get(key, value) for key, value in NOT_WATCHED.items()},
        "candidates": [
            {
                "step": each.step,
                "folder": os.path.relpath(each.folder, run.parent),
                "heldout_loss": losses.get(each.step),
            }
            for each in there
        ],
        # Of the whole curve, whether or not a checkpoint was kept.
        "least_heldout": None if least is None else {"step": least, "heldout_loss": losses[least]},
    }


def why_not_exportable(
    run_manifest: Path | None, checkpoints_every: int, export: str, evaluation: HeldoutEvaluation
) -> str | None:
    """Why the checkpoint that is asked for cannot be exported, in a sentence with a fix; None if it can, or will.

    `run_manifest` is that of the summary of a finished training, whether or not it is there; None for a training that
    will run anew. `checkpoints_every` and `evaluation` are settings of the training.
    """
    facts = _facts(run_manifest) if run_manifest else None
    if run_manifest and facts:
        run = run_manifest.with_name(run_manifest.name.removesuffix(".manifest.json"))
        # Without its final weights, the training runs again.
        if read_marker(_place(run, facts["final_weights"])):
            try:
                find(run, facts, export, evaluation.model_dump())
            except NotExportable as error:
                return str(error)
            return None
    return why_never_there(checkpoints_every, export, evaluation)


def why_never_there(checkpoints_every: int, export: str, evaluation: HeldoutEvaluation) -> str | None:
    """Why a training with these settings will not leave the checkpoint that is asked for; None if it will."""
    step = asked_step(export)
    if step is not None and step % checkpoints_every:
        below = step - step % checkpoints_every
        choices = " or ".join(str(each) for each in (below, below + checkpoints_every) if each)
        return f"{export}: checkpoints are written every {checkpoints_every} steps; choose {choices}"
    if export == "best" and not (evaluation.every_examples and evaluation.examples):
        return (
            "best: it is the checkpoint with the least held-out loss, and the training is not evaluated. Fix: set "
            "evaluation.every_examples and evaluation.examples, or export last"
        )
    return None


def find(
    run: Path,
    facts: Mapping[str, Any],
    export: str,
    evaluation: Mapping[str, Any] | None,
    tokens: str | None = None,
) -> Candidate:
    """The checkpoint of a finished training that is asked for, from the facts that its summary `run` states.

    For `best`, `evaluation` is how the training must have been evaluated, and `tokens` the digest of the held-out
    rows, None if that does not matter. Raises NotExportable if it was not, or if the checkpoint is not there.
    """
    last = Candidate(facts["steps"], _place(run, facts["final_weights"]), None)
    if export == "last":
        return last
    stated = [
        Candidate(each["step"], _place(run, each["folder"]), each["heldout_loss"])
        for each in facts.get("candidates", ())
    ]
    # The final weights come after the checkpoint of the same step, and are preferred.
    there = {each.step: each for each in stated if read_marker(each.folder)}
    if export == "best":
        step = _best_step(run, facts, evaluation, tokens)
        what = f"best: the least held-out loss of {run} was after step {step}, and the checkpoint of that step"
    else:
        step = asked_step(export) or 0
        what = f"{export}: the checkpoint of {run} after that step"
    if step not in there:
        raise NotExportable(
            f"{what} was not kept; there are: {_listed(list(there.values()))}. Fix: export one of these, or delete "
            f"{run} and {last.folder.parent} to train again, which keeps it"
        )
    return there[step]


def _best_step(run: Path, facts: Mapping[str, Any], evaluation: Mapping[str, Any] | None, tokens: str | None) -> int:
    watched, least = facts.get("watched", NOT_WATCHED), facts.get("least_heldout")
    fix = "Fix: export last or another step, or train again"
    if least is None:
        raise NotExportable(f"best: {run} has no held-out loss after its first step. {fix}, evaluated")
    wanted = evaluation or {}
    differ = [
        f"evaluation.{key} was {watched[key]}, and is {wanted.get(key)}"
        for key in ("every_examples", "examples")
        if watched[key] != wanted.get(key)
    ]
    if tokens is not None and watched["tokens"] != tokens:
        differ.append("the held-out rows were others")
    if differ:
        raise NotExportable(f"best: {run} was evaluated otherwise than asked: {'; '.join(differ)}. {fix}")
    step: int = least["step"]
    return step


def _listed(candidates: Sequence[Candidate]) -> str:
    """Checkpoints, with their held-out losses."""
    return (
        ", ".join(
            f"step {each.step}" + (f" (held-out loss {each.heldout_loss:.4g})" if each.heldout_loss is not None else "")
            for each in candidates
        )
        or "none"
    )


def _place(run: Path, relative: str) -> Path:
    return Path(os.path.normpath(run.parent / relative))


def _noted(directory: Path) -> dict[str, Any] | None:
    try:
        noted: dict[str, Any] = json.loads((directory / WATCHED).read_text(encoding="utf-8"))
        known = {*NOT_WATCHED, "since_step"} <= noted.keys()
    except (OSError, ValueError, AttributeError):
        return None
    return noted if known else None


def _facts(run_manifest: Path) -> dict[str, Any] | None:
    """What a finished training states; None if there is none."""
    try:
        facts: dict[str, Any] = json.loads(run_manifest.read_text(encoding="utf-8"))["facts"]
        known = {"steps", "final_weights"} <= facts.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return facts if known else None
