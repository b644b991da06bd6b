"""Train a model with any objective of scripts/amberline/objectives.

Started by itself it is one process; with `torchrun --nproc-per-node N --` in front, N. A run that was interrupted
continues when the same command is given again. After SIGTERM or SIGUSR1 it saves its state and exits with 75; because
torchrun makes a 1 of that, `<checkpoints>/<name>.requeue.json` is there while the training waits to be started again.
"""

from pathlib import Path
from typing import Annotated

import typer

from amberline.objectives.registry import load_objective, objective_names
from amberline.training.request import Data, Request, train_as_asked


def main(
    *,
    objective: Annotated[str, typer.Option(help=f"one of: {', '.join(objective_names())}")],
    name: Annotated[str, typer.Option(help="name of the run directory and of the progress bar")],
    model: Annotated[Path, typer.Option(help="Hugging Face folder to start from")],
    tokens: Annotated[Path, typer.Option(help="token folder of what the objective trains on")],
    reference: Annotated[Path | None, typer.Option(help="log-probabilities of these rows under the reference")] = None,
    heldout: Annotated[Path | None, typer.Option(help="token folder to evaluate on")] = None,
    heldout_reference: Annotated[Path | None, typer.Option(help="the reference's log-probabilities of those")] = None,
    settings: Annotated[str, typer.Option(help="JSON of the settings that determine the weights")],
    runtime: Annotated[str, typer.Option(help="JSON of the other settings (training), of tracking and of stale")],
    packages: Annotated[str, typer.Option(help="JSON of the versions of packages that determine the weights")],
    hardware: Annotated[str, typer.Option(help="JSON of machine and layout, as under hardware in config.yaml")],
    checkpoints: Annotated[Path, typer.Option(help="folder of run directories")],
    run: Annotated[Path, typer.Option(help="summary to write, with its manifest")],
    metrics: Annotated[Path, typer.Option(help="curve to write")],
) -> None:
    """Train a model, and leave the final weights in a run directory under --checkpoints."""
    if objective not in objective_names():
        allowed = ", ".join(objective_names())
        raise typer.BadParameter(f"found {objective!r}; allowed: {allowed}", param_hint="--objective")
    wanted = load_objective(objective).needs_reference
    given = {"--reference": (tokens, reference), "--heldout-reference": (heldout, heldout_reference)}
    for option, (rows, scores) in given.items():
        if rows is not None and (scores is not None) != wanted:
            raise typer.BadParameter(f"{objective} {'needs it' if wanted else 'has no use for it'}", param_hint=option)
    train_as_asked(
        Request(
            name=name,
            objective=objective,
            program=Path(__file__),
            model=model,
            data=Data(tokens, reference),
            watched=Data(heldout, heldout_reference) if heldout else None,
            settings=settings,
            runtime=runtime,
            hardware=hardware,
            packages=packages,
            checkpoints=checkpoints,
            run=run,
            metrics=metrics,
        )
    )


if __name__ == "__main__":
    typer.run(main)
