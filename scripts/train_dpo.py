"""Direct preference optimisation: the second half of AmberSafe.

Start it by itself for one process, or with `torchrun --nproc-per-node N --` before it for N. A run that was
interrupted continues when the same command is given again. After SIGTERM or SIGUSR1 it saves its state and exits with
75; because torchrun makes a 1 of that, `<checkpoints>/<stage>.requeue.json` is there while the stage waits to be
started again.
"""

from pathlib import Path
from typing import Annotated

import typer

from amberline.provenance.digests import code_digest
from amberline.provenance.manifests import Manifest, ManifestError, verify, write_manifest
from amberline.records.tokens import open_tokens
from amberline.settings.hardware import Hardware
from amberline.settings.tracking import Tracking
from amberline.settings.training import DPOTraining
from amberline.training.objectives.base import ObjectiveError
from amberline.training.objectives.dpo import DPO
from amberline.training.place import REQUEUE, place_of
from amberline.training.ranks import join, leave
from amberline.training.stage import FAILURES, Stage, complain, train_stage, write_summary

STAGE = "dpo"


def main(
    *,
    model: Annotated[Path, typer.Option(help="Hugging Face folder to start from; it is the reference, too")],
    tokens: Annotated[Path, typer.Option(help="token folder of preference pairs")],
    reference: Annotated[Path, typer.Option(help="the reference's log-probabilities of these pairs")],
    settings: Annotated[str, typer.Option(help="JSON of the settings, as under ambersafe.dpo in config.yaml")],
    hardware: Annotated[str, typer.Option(help="JSON of machine and layout, as under hardware in config.yaml")],
    checkpoints: Annotated[Path, typer.Option(help="folder in which the run has its place")],
    tracking: Annotated[str, typer.Option(help="JSON of where curves go, as under tracking in config.yaml")],
    run: Annotated[Path, typer.Option(help="summary to write, with its manifest")],
    metrics: Annotated[Path, typer.Option(help="curve to write")],
    heldout: Annotated[Path | None, typer.Option(help="token folder of pairs to evaluate on")] = None,
    heldout_reference: Annotated[Path | None, typer.Option(help="the reference's log-probabilities of those")] = None,
) -> None:
    """Train on preference pairs, and leave the final weights in the place under --checkpoints."""
    asked, machine = DPOTraining.model_validate_json(settings), Hardware.model_validate_json(hardware)
    if (heldout is None) != (heldout_reference is None):
        raise typer.BadParameter("--heldout and --heldout-reference are given together, or neither of them")
    ranks = join(machine.device, machine.cpus_per_rank)
    folders = {"model": model, "tokens": tokens, "reference": reference}
    if heldout and heldout_reference:
        folders |= {"heldout": heldout, "heldout_reference": heldout_reference}
    try:
        identity = {
            "settings": asked.model_dump(mode="json"),
            "code": code_digest(Path(__file__)),
            **ranks.from_first(lambda: verified(folders, asked.precision)),
        }
        held = None
        if heldout and heldout_reference:
            held = DPO(open_tokens(heldout), open_tokens(heldout_reference), asked)
        stage = Stage(
            place=place_of(checkpoints, STAGE, identity),
            model=model,
            objective=DPO(open_tokens(tokens), open_tokens(reference), asked),
            heldout=held,
            settings=asked,
            hardware=machine,
            tracking=Tracking.model_validate_json(tracking),
        )
        if not train_stage(stage, ranks):
            raise typer.Exit(REQUEUE)
        if ranks.first:
            facts = write_summary(stage.place, run, metrics)
            write_manifest(
                run,
                kind="training",
                files=[run, metrics],
                inputs=folders,
                settings=asked.model_dump(mode="json"),
                facts=facts,
            )
    except (*FAILURES, ManifestError) as error:
        complain(STAGE, error, ranks)
        raise typer.Exit(1) from None
    finally:
        leave()


def verified(folders: dict[str, Path], precision: str) -> dict[str, str]:
    """The digest of each input. Raises where one is damaged, or log-probabilities are not of this model and pairs."""
    manifests = {name: verify(folder) for name, folder in folders.items()}
    for scores, pairs in (("reference", "tokens"), ("heldout_reference", "heldout")):
        if scores in manifests:
            check_reference(folders[scores], manifests[scores], manifests["model"], manifests[pairs], precision)
    return {name: manifest["digest"] for name, manifest in manifests.items()}


def check_reference(folder: Path, scores: Manifest, model: Manifest, tokens: Manifest, precision: str) -> None:
    """Log-probabilities are used only for what they were computed from."""
    expected = {"model": model["digest"], "tokens": tokens["digest"], "precision": precision}
    found = {name: scores["inputs"].get(name, {}).get("digest") for name in ("model", "tokens")}
    found["precision"] = scores["settings"].get("precision")
    differ = [name for name, value in expected.items() if found[name] != value]
    if differ:
        raise ObjectiveError(
            f"{folder} was computed with another {' and '.join(differ)} than this training's: "
            "it is not used; score the reference again"
        )


if __name__ == "__main__":
    typer.run(main)
