"""Write the card of an exported model: README.md in its folder, as the Hugging Face hub reads it."""

from pathlib import Path
from typing import Annotated

import typer

from amberline.core.ending import one_message
from amberline.core.files import whole_file
from amberline.core.manifests import ManifestError, read_manifest, write_manifest
from amberline.report.cards import Card, ComparedCardText, render_card


def main(
    model: Annotated[Path, typer.Option(help="folder of the exported model")],
    run: Annotated[Path, typer.Option(help="summary of its training (run.json)")],
    raw: Annotated[list[Path], typer.Option(help="raw file that went into it; may be repeated")],
    base: Annotated[Path, typer.Option(help="folder of the model at the start of its line")],
    settings: Annotated[str, typer.Option(help="name, variant, sources and deviations, as JSON")],
    output: Annotated[Path, typer.Option(help="README.md to write")],
) -> None:
    """Write the card of an exported model."""
    with one_message("write_card", ManifestError):
        card = Card(
            text=ComparedCardText.model_validate_json(settings),
            node=model.name,
            model=read_manifest(model),
            training=read_manifest(run),
            raw={manifest["settings"]["name"]: manifest for manifest in map(read_manifest, raw)},
            base=read_manifest(base),
        )
        with whole_file(output) as partial:
            partial.write_text(render_card(card), encoding="utf-8")
        inputs = {"model": model, "run": run}
        write_manifest(output, kind="card", files=[output], inputs=inputs, settings={}, facts={})
    sources, departures = len(card.text.sources), len(card.text.deviations)
    print(f"{output}: card of {card.text.name}, {sources} sources, {departures} departures from the published recipe")


if __name__ == "__main__":
    typer.run(main)
