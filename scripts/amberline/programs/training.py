"""What the training programs do alike, from their command lines to a summary with its manifest.

All are started by themselves for one process, or with `torchrun --nproc-per-node N --` in front for N. A run that was
interrupted continues when the same command is given again. After SIGTERM or SIGUSR1 it saves its state and exits with
75; because torchrun makes a 1 of that, `<checkpoints>/<stage>.requeue.json` is there while the stage waits to be
started again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import typer

from amberline.core.code import code_digest
from amberline.core.manifests import Manifest, ManifestError, verify, write_manifest
from amberline.core.settings import Kind
from amberline.recipe.hardware import Hardware
from amberline.recipe.runtime import TrainingRuntime
from amberline.recipe.training import Training
from amberline.training.objectives.base import Objective
from amberline.training.place import REQUEUE, Identity, place_of
from amberline.training.ranks import join, leave
from amberline.training.stage import FAILURES, Finished, Stage, complain, train_stage, write_summary


@dataclass(frozen=True)
class Request:
    """What a training program is asked for."""

    stage: str  # the run directory is named after it
    program: Path  # its file: the code that it imports determines the run, too
    settings: Training
    hardware: str  # JSON
    runtime: TrainingRuntime
    packages: str  # JSON: versions of those that determine the run
    checkpoints: Path  # folder of run directories
    inputs: Mapping[str, Path]  # folders with manifests that determine the run; "model" is the one to start from
    run: Path  # summary to write, with its manifest
    metrics: Path  # curve to write
    watched: Mapping[str, Path] = field(default_factory=dict)  # folders with manifests that are evaluated on


Settings = TypeVar("Settings", bound=Training)


def read_settings(kind: type[Settings], settings: str, runtime: str) -> tuple[Settings, TrainingRuntime]:
    """A training's settings from the JSON of those that change its weights, and of those that do not."""
    around = TrainingRuntime.model_validate_json(runtime)
    return kind.model_validate({**json.loads(settings), **around.training}), around


def train_as_asked(
    request: Request,
    objectives: Callable[[], tuple[Objective, Objective | None]],
    check: Callable[[Mapping[str, Manifest]], None] = lambda _: None,
) -> None:
    """Verify the inputs, train in the run directory, and describe what came of it.

    `objectives` opens what is trained on and, if anything, what is evaluated on. `check` may refuse the inputs by their
    manifests, by raising one of FAILURES. Exits with 1 after a message, and with REQUEUE when the run was told to stop
    and saved its state.
    """
    machine = Hardware.model_validate_json(request.hardware)
    ranks = join(machine.device, machine.cpus_per_rank)
    try:
        identity = ranks.from_first(lambda: _identity(request, check))
        objective, heldout = objectives()
        stage = Stage(
            place=place_of(request.checkpoints, request.stage, identity),
            model=request.inputs["model"],
            objective=objective,
            heldout=heldout,
            settings=request.settings,
            hardware=machine,
            tracking=request.runtime.tracking,
            stale=request.runtime.stale,
        )
        finished = train_stage(stage, ranks)
        if finished is None:
            raise typer.Exit(REQUEUE)
        if ranks.first:
            _describe(request, finished)
    except (*FAILURES, ManifestError) as error:
        complain(request.stage, error, ranks)
        raise typer.Exit(1) from None
    finally:
        leave()


def _identity(request: Request, check: Callable[[Mapping[str, Manifest]], None]) -> Identity:
    manifests = {name: verify(folder) for name, folder in request.inputs.items()}
    check(manifests | {name: verify(folder) for name, folder in request.watched.items()})
    return Identity(
        settings=_determining(request.settings),
        inputs={name: manifests[name]["digest"] for name in request.inputs},
        code=code_digest(request.program),
        packages=json.loads(request.packages),
        recipes={name: manifests[name]["recipe"] for name in request.inputs},
    )


def _determining(settings: Training) -> dict[str, Any]:
    """The settings that change the weights, as JSON has them."""
    values: dict[str, Any] = json.loads(json.dumps(settings.of(Kind.RESULT)))
    return values


def _describe(request: Request, finished: Finished) -> None:
    """Write the summary, the curve, and the manifest that says which code and packages made the weights."""
    summary = write_summary(finished, request.run, request.metrics)
    asked = finished.place.identity
    made = Identity.read(finished.place.folder) or asked
    facts = {**summary, "made_with": made.made_with(), "earlier": list(made.earlier)}
    if made != asked:
        facts["kept_for"] = asked.made_with()
    write_manifest(
        request.run,
        kind="training",
        files=[request.run],
        beside=[request.metrics],
        inputs=request.inputs,
        settings=_determining(request.settings),
        facts=facts,
        digest=finished.weights,
    )
