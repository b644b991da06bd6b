"""Export a finished training as a Hugging Face folder; with `policy`, as policy.pt too."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from amberline.core.digests import canonical
from amberline.core.files import whole_folder
from amberline.core.manifests import Manifest, ManifestError, model_content, verify, write_manifest
from amberline.core.tensors import weights_digest
from amberline.recipe.export import Export


def final_weights(run: Path, manifest: Manifest) -> Path:
    """The folder of a training's final weights."""
    return Path(os.path.normpath(run.parent / manifest["facts"]["final_weights"]))


def main(
    run: Annotated[Path, typer.Option(help="summary of the finished training (run.json)")],
    base: Annotated[Path, typer.Option(help="model folder that the training started from")],
    settings: Annotated[str, typer.Option(help="dtype, template, policy and the settings of the training, as JSON")],
    output: Annotated[Path, typer.Option(help="Hugging Face folder to write")],
) -> None:
    """Export a finished training as a Hugging Face folder."""
    asked = Export.model_validate_json(settings)
    import torch

    from amberline.hub.model_names import ModelError
    from amberline.model.export import VICUNA, write_model_folder
    from amberline.model.weights import CheckpointWeights, DigestedWeights, write_policy

    try:
        training, started_from = verify(run), verify(base)
        folder_of_run = final_weights(run, training)
        _check_settings(run, training["settings"], asked.training)
        weights = DigestedWeights(CheckpointWeights(folder_of_run))
        with whole_folder(output) as folder:
            template = VICUNA if asked.template == "vicuna" else None
            write_model_folder(weights, base, folder, getattr(torch, asked.dtype), template)
            if weights_digest(weights.digests) != training["facts"]["weights_sha256"]:
                raise ManifestError(
                    f"{folder_of_run} holds other weights than {run} describes: they were changed or damaged. Fix: "
                    "delete that folder, and start the pipeline again; the training continues from its last checkpoint"
                )
            if asked.policy:
                facts = training["facts"]
                # The reference implementation counts examples, not optimizer steps.
                write_policy(weights, folder / "policy.pt", facts["examples"], facts["final_metrics"])
            write_manifest(
                folder,
                kind="model",
                files=list(folder.iterdir()),
                inputs={"run": run, "base": base},
                settings=asked.model_dump(exclude={"training"}),  # they are the run's
                facts={"parameters": sum(shape.numel() for shape in weights.shapes().values())},
                digest=model_content(folder),
            )
    except (ManifestError, ModelError) as error:
        sys.exit(f"export_model: {error}")
    print(f"{output}: {asked.dtype}, from {started_from['kind']} {base}", file=sys.stderr)


def _check_settings(run: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise ManifestError unless a training was made with the settings that the recipe has."""
    differ = [
        f"{key} was {canonical(found.get(key))}, and is {canonical(asked.get(key))} in the recipe"
        for key in sorted(found.keys() | asked.keys())
        if found.get(key) != asked.get(key)
    ]
    if differ:
        raise ManifestError(
            f"{run} is of a training with other settings: {'; '.join(differ)}. Nothing was exported. "
            "Fix: start the pipeline again; it trains with the settings of the recipe"
        )


if __name__ == "__main__":
    typer.run(main)
