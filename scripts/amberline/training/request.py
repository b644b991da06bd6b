"""A training as it is asked for on a command line, from its folders to a summary with its manifest."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from amberline.core.code import code_digest
from amberline.core.manifests import Manifest, ManifestError, verify, write_manifest
from amberline.core.settings import Kind
from amberline.data.tokens import check_tokens, open_tokens
from amberline.model.files import read_config
from amberline.objectives.base import Objective, ObjectiveError
from amberline.objectives.registry import load_objective, objective_file
from amberline.objectives.settings import Training
from amberline.recipe.hardware import Hardware
from amberline.recipe.runtime import TrainingRuntime
from amberline.training.exportable import NOT_WATCHED
from amberline.training.ranks import init_ranks
from amberline.training.references import unlike
from amberline.training.run_directory import REQUEUE, Identity, run_directory_of
from amberline.training.signals import ending_at_interrupt
from amberline.training.stage import FAILURES, Finished, Stage, train_stage, write_summary
from amberline.training.together import ending_together


@dataclass(frozen=True)
class Data:
    """What is trained on, or evaluated on: folders with manifests."""

    tokens: Path
    reference: Path | None  # log-probabilities of the reference model, for objectives that need them


@dataclass(frozen=True)
class Request:
    """What a training program is asked for."""

    name: str  # run directories are named after it, for people
    objective: str
    program: Path  # its file: the code that it imports determines the run, too
    model: Path  # Hugging Face folder to start from
    data: Data
    watched: Data | None  # what is evaluated on during training
    settings: str  # JSON of what determines the weights
    runtime: str  # JSON of what is kept, watched and told on the way
    hardware: str  # JSON
    packages: str  # JSON: versions of those that determine the run
    checkpoints: Path  # folder of run directories
    run: Path  # summary to write, with its manifest
    metrics: Path  # curve to write

    @property
    def inputs(self) -> dict[str, Path]:
        """Folders with manifests that determine the run."""
        return {"model": self.model, **_folders(self.data)}


def train_as_asked(request: Request) -> None:
    """Verify the inputs, train in the run directory, and describe what came of it.

    Exits with 1 after a message, and with REQUEUE when the run was told to stop and saved its state.
    """
    machine = Hardware.model_validate_json(request.hardware)
    around = TrainingRuntime.model_validate_json(request.runtime)
    objective = load_objective(request.objective)
    settings = objective.Settings.model_validate({**json.loads(request.settings), **around.training})
    with ending_at_interrupt(request.name):
        _train(request, objective, settings, machine, around)


def _train(
    request: Request, objective: type[Objective], settings: Training, machine: Hardware, around: TrainingRuntime
) -> None:
    ranks = init_ranks(machine.device, machine.cpus_per_rank)
    with ending_together(request.name, ranks, *FAILURES, ManifestError):
        identity, watched = ranks.from_first(lambda: _identity(request, settings))
        stage = Stage(
            directory=run_directory_of(request.checkpoints, request.name, identity),
            model=request.model,
            objective=_open(objective, settings, request.data),
            heldout=_open(objective, settings, request.watched) if request.watched else None,
            watched=watched,
            exports=around.exports,
            settings=settings,
            hardware=machine,
            tracking=around.tracking,
            stale=around.stale,
        )
        finished = train_stage(stage, ranks)
        if finished is None:
            raise typer.Exit(REQUEUE)
        if ranks.first:
            _describe(request, settings, finished)


def _open(objective: type[Objective], settings: Training, data: Data) -> Objective:
    return objective(settings, open_tokens(data.tokens), open_tokens(data.reference) if data.reference else None)


def _folders(data: Data) -> dict[str, Path]:
    return {"tokens": data.tokens, **({"reference": data.reference} if data.reference else {})}


def _identity(request: Request, settings: Training) -> tuple[Identity, Mapping[str, Any]]:
    """Verify all folders, each once, and return what determines the run, and how it is evaluated."""
    manifests = {name: verify(folder) for name, folder in request.inputs.items()}
    watched = {name: verify(folder) for name, folder in _folders(request.watched).items()} if request.watched else {}
    vocabulary = read_config(request.model).vocab_size
    for data, found in ((request.data, manifests), (request.watched, watched)):
        if data:
            check_tokens(data.tokens, vocabulary)
        if data and data.reference:
            _check_reference(data.reference, found, manifests["model"], settings)
    identity = Identity(
        settings=_determining(settings),
        inputs={name: manifest["digest"] for name, manifest in manifests.items()},
        code=code_digest(request.program, objective_file(request.objective)),
        packages=json.loads(request.packages),
        recipes={name: manifest["recipe"] for name, manifest in manifests.items()},
    )
    evaluation = settings.evaluation
    is_watched = watched and evaluation.every_examples and evaluation.examples
    how = {**evaluation.model_dump(), "tokens": watched["tokens"]["digest"]} if is_watched else NOT_WATCHED
    return identity, how


def _check_reference(folder: Path, data: Mapping[str, Manifest], model: Manifest, settings: Training) -> None:
    """Raise ObjectiveError for log-probabilities of another model or other pairs, or that were computed otherwise."""
    found = unlike(
        data["reference"], tokens=data["tokens"], precision=settings.precision, tf32=settings.tf32, model=model
    )
    if found:
        raise ObjectiveError(
            f"{folder} was computed with {found} than this training's: it is not used; score the reference again"
        )


def _determining(settings: Training) -> dict[str, Any]:
    """The settings that change the weights, as JSON has them."""
    values: dict[str, Any] = json.loads(json.dumps(settings.of(Kind.RESULT)))
    return values


def _describe(request: Request, settings: Training, finished: Finished) -> None:
    """Write the summary, the curve, and the manifest that says which code and packages made the weights."""
    summary = write_summary(finished, request.run, request.metrics)
    asked = finished.directory.identity
    made = Identity.read(finished.directory.folder) or asked
    facts: dict[str, Any] = {**summary, "objective": request.objective}
    facts |= {"made_with": made.made_with(), "earlier": list(made.earlier)}
    if made != asked:
        facts["kept_for"] = asked.made_with()
    write_manifest(
        request.run,
        kind="training",
        files=[request.run],
        beside=[request.metrics],
        inputs=request.inputs,
        settings=_determining(settings),
        facts=facts,
        digest=finished.weights,
    )
    print(
        f"train: {request.name}: {summary['steps']:,} steps, {summary['examples']:,} examples, "
        f"{summary['tokens']:,} tokens, {summary['loss_tokens']:,} of them with loss; "
        f"loss {summary['final_metrics']['loss']:.4g} at the last step"
    )
