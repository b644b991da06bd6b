"""What the training programs do alike, from their command lines to a summary with its manifest.

All are started by themselves for one process, or with `torchrun --nproc-per-node N --` in front for N. A run that was
interrupted continues when the same command is given again. After SIGTERM or SIGUSR1 it saves its state and exits with
75; because torchrun makes a 1 of that, `<checkpoints>/<stage>.requeue.json` is there while the stage waits to be
started again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import typer

from amberline.provenance.digests import code_digest
from amberline.provenance.manifests import Manifest, ManifestError, verify, write_manifest
from amberline.settings.hardware import Hardware
from amberline.settings.tracking import Tracking
from amberline.settings.training import Training
from amberline.training.objectives.base import Objective
from amberline.training.place import REQUEUE, place_of
from amberline.training.ranks import join, leave
from amberline.training.stage import FAILURES, Stage, complain, train_stage, write_summary


@dataclass(frozen=True)
class Request:
    """What a training program is asked for."""

    stage: str  # the place is named after it
    program: Path  # its file: the code that it imports determines the run, too
    settings: Training
    hardware: str  # JSON
    tracking: str  # JSON
    checkpoints: Path  # folder in which the run has its place
    inputs: Mapping[str, Path]  # folders with manifests; "model" is the one to start from
    run: Path  # summary to write, with its manifest
    metrics: Path  # curve to write


def train_as_asked(
    request: Request,
    objectives: Callable[[], tuple[Objective, Objective | None]],
    check: Callable[[Mapping[str, Manifest]], None] = lambda _: None,
) -> None:
    """Verify the inputs, train in the run's place, and describe what came of it.

    `objectives` opens what is trained on and, if anything, what is evaluated on. `check` may refuse the inputs by their
    manifests, by raising one of FAILURES. Exits with 1 after a message, and with REQUEUE when the run was told to stop
    and saved its state.
    """
    machine = Hardware.model_validate_json(request.hardware)
    settings = request.settings.model_dump(mode="json")
    ranks = join(machine.device, machine.cpus_per_rank)
    try:
        identity = {
            "settings": settings,
            "code": code_digest(request.program),
            **ranks.from_first(lambda: _digests(request.inputs, check)),
        }
        objective, heldout = objectives()
        stage = Stage(
            place=place_of(request.checkpoints, request.stage, identity),
            model=request.inputs["model"],
            objective=objective,
            heldout=heldout,
            settings=request.settings,
            hardware=machine,
            tracking=Tracking.model_validate_json(request.tracking),
        )
        if not train_stage(stage, ranks):
            raise typer.Exit(REQUEUE)
        if ranks.first:
            facts = write_summary(stage.place, request.run, request.metrics)
            files = [request.run, request.metrics]
            write_manifest(
                request.run, kind="training", files=files, inputs=request.inputs, settings=settings, facts=facts
            )
    except (*FAILURES, ManifestError) as error:
        complain(request.stage, error, ranks)
        raise typer.Exit(1) from None
    finally:
        leave()


def _digests(inputs: Mapping[str, Path], check: Callable[[Mapping[str, Manifest]], None]) -> dict[str, str]:
    manifests = {name: verify(folder) for name, folder in inputs.items()}
    check(manifests)
    return {name: manifest["digest"] for name, manifest in manifests.items()}
