"""Direct preference optimisation: the second half of AmberSafe.

How it is started, interrupted and continued: scripts/amberline/programs/training.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from amberline.core.manifests import Manifest
from amberline.data.tokens import open_tokens
from amberline.programs.training import Request, read_settings, train_as_asked
from amberline.recipe.training import DPOTraining
from amberline.training.objectives.base import ObjectiveError
from amberline.training.objectives.dpo import DPO


def main(
    *,
    model: Annotated[Path, typer.Option(help="Hugging Face folder to start from; it is the reference, too")],
    tokens: Annotated[Path, typer.Option(help="token folder of preference pairs")],
    reference: Annotated[Path, typer.Option(help="the reference's log-probabilities of these pairs")],
    settings: Annotated[str, typer.Option(help="JSON of what determines the weights, of ambersafe.dpo in config.yaml")],
    runtime: Annotated[str, typer.Option(help="JSON of the rest of it (training), of tracking and of stale")],
    packages: Annotated[str, typer.Option(help="JSON of the versions of packages that determine the weights")],
    hardware: Annotated[str, typer.Option(help="JSON of machine and layout, as under hardware in config.yaml")],
    checkpoints: Annotated[Path, typer.Option(help="folder of run directories")],
    run: Annotated[Path, typer.Option(help="summary to write, with its manifest")],
    metrics: Annotated[Path, typer.Option(help="curve to write")],
    heldout: Annotated[Path | None, typer.Option(help="token folder of pairs to evaluate on")] = None,
    heldout_reference: Annotated[Path | None, typer.Option(help="the reference's log-probabilities of those")] = None,
) -> None:
    """Train on preference pairs, and leave the final weights in a run directory under --checkpoints."""
    asked, around = read_settings(DPOTraining, settings, runtime)
    if (heldout is None) != (heldout_reference is None):
        raise typer.BadParameter("--heldout and --heldout-reference are given together, or neither of them")
    inputs = {"model": model, "tokens": tokens, "reference": reference}
    watched: dict[str, Path] = {}
    if heldout and heldout_reference:
        watched = {"heldout": heldout, "heldout_reference": heldout_reference}

    def objectives() -> tuple[DPO, DPO | None]:
        held = None
        if heldout and heldout_reference:
            held = DPO(open_tokens(heldout), open_tokens(heldout_reference), asked)
        return DPO(open_tokens(tokens), open_tokens(reference), asked), held

    request = Request(
        stage="dpo",
        program=Path(__file__),
        settings=asked,
        hardware=hardware,
        runtime=around,
        packages=packages,
        checkpoints=checkpoints,
        inputs=inputs,
        watched=watched,
        run=run,
        metrics=metrics,
    )
    train_as_asked(
        request, objectives, lambda manifests: check_references(inputs | watched, manifests, asked.precision)
    )


def check_references(folders: Mapping[str, Path], manifests: Mapping[str, Manifest], precision: str) -> None:
    """Log-probabilities are used only for the model, the pairs and the precision that they were computed from."""
    for scores, pairs in (("reference", "tokens"), ("heldout_reference", "heldout")):
        if scores not in manifests:
            continue
        found, settings = manifests[scores]["inputs"], manifests[scores]["settings"]
        computed_from = {
            "model": found.get("model", {}).get("digest"),
            "tokens": found.get("tokens", {}).get("digest"),
            "precision": settings.get("precision"),
        }
        expected = {
            "model": manifests["model"]["digest"],
            "tokens": manifests[pairs]["digest"],
            "precision": precision,
        }
        differ = [name for name, value in expected.items() if computed_from[name] != value]
        if differ:
            raise ObjectiveError(
                f"{folders[scores]} was computed with another {' and '.join(differ)} than this training's: "
                "it is not used; score the reference again"
            )


if __name__ == "__main__":
    typer.run(main)
