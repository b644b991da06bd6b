"""Finetune on conversations: AmberChat.

Start it by itself for one process, or with `torchrun --nproc-per-node N --` before it for N. A run that was
interrupted continues when the same command is given again. After SIGTERM or SIGUSR1 it saves its state and exits with
75; because torchrun makes a 1 of that, `<checkpoints>/<stage>.requeue.json` is there while the stage waits to be
started again.
"""

from pathlib import Path
from typing import Annotated

import typer

from amberline.provenance.digests import code_digest
from amberline.provenance.manifests import ManifestError, verify, write_manifest
from amberline.records.tokens import open_tokens
from amberline.settings.hardware import Hardware
from amberline.settings.tracking import Tracking
from amberline.settings.training import ChatTraining
from amberline.training.objectives.chat import Chat
from amberline.training.place import REQUEUE, place_of
from amberline.training.ranks import join, leave
from amberline.training.stage import FAILURES, Stage, complain, train_stage, write_summary

STAGE = "amberchat"


def main(
    *,
    model: Annotated[Path, typer.Option(help="Hugging Face folder to start from")],
    tokens: Annotated[Path, typer.Option(help="token folder of conversations")],
    settings: Annotated[str, typer.Option(help="JSON of the settings, as under amberchat.training in config.yaml")],
    hardware: Annotated[str, typer.Option(help="JSON of machine and layout, as under hardware in config.yaml")],
    checkpoints: Annotated[Path, typer.Option(help="folder in which the run has its place")],
    tracking: Annotated[str, typer.Option(help="JSON of where curves go, as under tracking in config.yaml")],
    run: Annotated[Path, typer.Option(help="summary to write, with its manifest")],
    metrics: Annotated[Path, typer.Option(help="curve to write")],
    heldout: Annotated[Path | None, typer.Option(help="token folder to evaluate on")] = None,
) -> None:
    """Finetune on conversations, and leave the final weights in the place under --checkpoints."""
    asked, machine = ChatTraining.model_validate_json(settings), Hardware.model_validate_json(hardware)
    ranks = join(machine.device, machine.cpus_per_rank)
    folders = {"model": model, "tokens": tokens, **({"heldout": heldout} if heldout else {})}
    try:
        identity = {
            "settings": asked.model_dump(mode="json"),
            "code": code_digest(Path(__file__)),
            **ranks.from_first(lambda: {name: verify(folder)["digest"] for name, folder in folders.items()}),
        }
        stage = Stage(
            place=place_of(checkpoints, STAGE, identity),
            model=model,
            objective=Chat(open_tokens(tokens)),
            heldout=Chat(open_tokens(heldout)) if heldout else None,
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


if __name__ == "__main__":
    typer.run(main)
