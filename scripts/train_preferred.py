"""Finetune on preferred responses: the first half of AmberSafe.

How it is started, interrupted and continued: scripts/amberline/programs/training.py.
"""

from pathlib import Path
from typing import Annotated

import typer

from amberline.programs.training import Request, train_as_asked
from amberline.records.tokens import open_tokens
from amberline.settings.training import PreferredTraining
from amberline.training.objectives.preferred import Preferred


def main(
    *,
    model: Annotated[Path, typer.Option(help="Hugging Face folder to start from")],
    tokens: Annotated[Path, typer.Option(help="token folder of preferred responses")],
    settings: Annotated[str, typer.Option(help="JSON of the settings, as under ambersafe.sft in config.yaml")],
    hardware: Annotated[str, typer.Option(help="JSON of machine and layout, as under hardware in config.yaml")],
    checkpoints: Annotated[Path, typer.Option(help="folder in which the run has its place")],
    tracking: Annotated[str, typer.Option(help="JSON of where curves go, as under tracking in config.yaml")],
    run: Annotated[Path, typer.Option(help="summary to write, with its manifest")],
    metrics: Annotated[Path, typer.Option(help="curve to write")],
    heldout: Annotated[Path | None, typer.Option(help="token folder to evaluate on")] = None,
) -> None:
    """Finetune on preferred responses, and leave the final weights in the place under --checkpoints."""
    request = Request(
        stage="sft",
        program=Path(__file__),
        settings=PreferredTraining.model_validate_json(settings),
        hardware=hardware,
        tracking=tracking,
        checkpoints=checkpoints,
        inputs={"model": model, "tokens": tokens, **({"heldout": heldout} if heldout else {})},
        run=run,
        metrics=metrics,
    )
    train_as_asked(
        request, lambda: (Preferred(open_tokens(tokens)), Preferred(open_tokens(heldout)) if heldout else None)
    )


if __name__ == "__main__":
    typer.run(main)
