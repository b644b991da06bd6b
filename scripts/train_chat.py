"""Finetune on conversations: AmberChat.

How it is started, interrupted and continued: scripts/amberline/programs/training.py.
"""

from pathlib import Path
from typing import Annotated

import typer

from amberline.data.tokens import open_tokens
from amberline.programs.training import Request, read_settings, train_as_asked
from amberline.recipe.training import ChatTraining
from amberline.training.objectives.chat import Chat


def main(
    *,
    model: Annotated[Path, typer.Option(help="Hugging Face folder to start from")],
    tokens: Annotated[Path, typer.Option(help="token folder of conversations")],
    settings: Annotated[
        str, typer.Option(help="JSON of what determines the weights, of amberchat.training in config.yaml")
    ],
    runtime: Annotated[str, typer.Option(help="JSON of the rest of it (training), of tracking and of stale")],
    packages: Annotated[str, typer.Option(help="JSON of the versions of packages that determine the weights")],
    hardware: Annotated[str, typer.Option(help="JSON of machine and layout, as under hardware in config.yaml")],
    checkpoints: Annotated[Path, typer.Option(help="folder of run directories")],
    run: Annotated[Path, typer.Option(help="summary to write, with its manifest")],
    metrics: Annotated[Path, typer.Option(help="curve to write")],
    heldout: Annotated[Path | None, typer.Option(help="token folder to evaluate on")] = None,
) -> None:
    """Finetune on conversations, and leave the final weights in a run directory under --checkpoints."""
    asked, around = read_settings(ChatTraining, settings, runtime)
    request = Request(
        stage="amberchat",
        program=Path(__file__),
        settings=asked,
        hardware=hardware,
        runtime=around,
        packages=packages,
        checkpoints=checkpoints,
        inputs={"model": model, "tokens": tokens},
        watched={"heldout": heldout} if heldout else {},
        run=run,
        metrics=metrics,
    )
    train_as_asked(request, lambda: (Chat(open_tokens(tokens)), Chat(open_tokens(heldout)) if heldout else None))


if __name__ == "__main__":
    typer.run(main)
