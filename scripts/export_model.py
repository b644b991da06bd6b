"""Export a finished training as a Hugging Face folder with its model card; with `policy`, as policy.pt too."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from amberline.provenance.cards import Card, render_card
from amberline.provenance.digests import file_digest
from amberline.provenance.manifests import Manifest, ManifestError, verify, write_manifest
from amberline.records.files import whole_folder
from amberline.settings.export import Export


def final_weights(run: Path, manifest: Manifest) -> Path:
    """The folder of a training's final weights, every file verified. Raises ManifestError."""
    folder = Path(os.path.normpath(run.parent / manifest["facts"]["final_weights"]))
    for name, digest in manifest["facts"]["final_weights_sha256"].items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            raise ManifestError(
                f"{folder / name} is missing or damaged, though {run} names it: delete {folder} and run that training "
                "again; it continues from its last checkpoint"
            )
    return folder


def main(
    run: Annotated[Path, typer.Option(help="summary of the finished training (run.json)")],
    base: Annotated[Path, typer.Option(help="model folder that the training started from")],
    settings: Annotated[str, typer.Option(help="name, dtype, template, policy and deviations, as JSON")],
    output: Annotated[Path, typer.Option(help="Hugging Face folder to write")],
) -> None:
    """Export a finished training as a Hugging Face folder."""
    asked = Export.model_validate_json(settings)
    import torch

    from amberline.model.errors import ModelError
    from amberline.model.export import VICUNA, write_model_folder
    from amberline.model.weights import CheckpointWeights, write_policy

    try:
        training, started_from = verify(run), verify(base)
        place = final_weights(run, training)
        weights = CheckpointWeights(place)
        identity: dict[str, Any] = json.loads((place.parent / "identity.json").read_text(encoding="utf-8"))
        with whole_folder(output) as folder:
            write_model_folder(
                weights, base, folder, getattr(torch, asked.dtype), VICUNA if asked.template == "vicuna" else None
            )
            if asked.policy:
                facts = training["facts"]
                # The reference implementation counts examples, not optimizer steps.
                write_policy(weights, folder / "policy.pt", facts["examples"], facts["final_metrics"])
            card = Card(
                name=asked.name,
                dtype=asked.dtype,
                template=asked.template,
                deviations=asked.deviations,
                training=training,
                sources=training["sources"],
                code=identity["code"],
            )
            (folder / "README.md").write_text(render_card(card), encoding="utf-8")
            write_manifest(
                folder,
                kind="model",
                files=list(folder.iterdir()),
                inputs={"run": run, "base": base},
                settings=asked.model_dump(),
                facts={
                    "parameters": sum(shape.numel() for shape in weights.shapes().values()),
                    "code": identity["code"],
                },
            )
    except (ManifestError, ModelError) as error:
        sys.exit(f"export_model: {error}")
    print(f"{output}: {asked.name} in {asked.dtype}, from {started_from['kind']} {base}", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
