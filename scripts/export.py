"""Export a finished training as a Hugging Face folder; with `policy`, as policy.pt too.

What becomes the model is its last state, that of the least held-out loss, or that after a given step.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from amberline.core.digests import canonical
from amberline.core.ending import one_message
from amberline.core.files import check_room, whole_folder
from amberline.core.manifests import Manifest, ManifestError, model_content, verify, write_manifest
from amberline.core.tensors import weights_digest
from amberline.recipe.export import Export
from amberline.training.checkpoint_files import read_marker, verified
from amberline.training.curve import CurveError, check_curve, read_metrics
from amberline.training.exportable import Candidate, NotExportable, find
from amberline.training.staleness import final_weights


def main(
    *,
    run: Annotated[Path, typer.Option(help="summary of the finished training (run.json)")],
    base: Annotated[Path, typer.Option(help="model folder that the training started from")],
    heldout: Annotated[Path | None, typer.Option(help="for best: token folder that it was evaluated on")] = None,
    settings: Annotated[str, typer.Option(help="which checkpoint, how it is written, and how it was trained, as JSON")],
    output: Annotated[Path, typer.Option(help="Hugging Face folder to write")],
) -> None:
    """Export a finished training as a Hugging Face folder."""
    asked = Export.model_validate_json(settings)
    if (heldout is not None) != (asked.export == "best"):
        fault = "best needs it" if asked.export == "best" else f"{asked.export} has no use for it"
        raise typer.BadParameter(fault, param_hint="--heldout")
    import torch

    from amberline.hub.model_names import ModelError
    from amberline.model.architecture import outline
    from amberline.model.export import write_model_folder
    from amberline.model.files import read_config
    from amberline.model.weights import CheckpointWeights, DigestedWeights, write_policy
    from amberline.templates.registry import TemplateError
    from amberline.text.chats import exported_chat
    from amberline.text.tokenizers import TokenizerRefused, load_tokenizer

    faults = (CurveError, ManifestError, ModelError, NotExportable, TemplateError, TokenizerRefused)
    with one_message("export", *faults):
        inputs = {"run": run, "base": base, **({"heldout": heldout} if heldout else {})}
        manifests = {name: verify(path) for name, path in inputs.items()}
        training = manifests["run"]
        _check_settings(run, training["settings"], asked.training)
        chosen = _chosen(run, training, asked, manifests.get("heldout"))
        weights = DigestedWeights(CheckpointWeights(chosen.folder))
        parameters = sum(shape.numel() for shape in weights.shapes().values())
        check_room(output, parameters * (getattr(torch, asked.dtype).itemsize + 4 * asked.policy))
        with whole_folder(output) as folder:
            chat_template, end_ids = exported_chat(load_tokenizer(base), asked.template)
            write_model_folder(weights, base, folder, getattr(torch, asked.dtype), chat_template, end_ids)
            _check_weights(run, training, chosen, weights.digests)
            if asked.policy:
                # The reference implementation counts examples, not optimizer steps.
                done = _progress(run, training["facts"], chosen.step)
                write_policy(weights, folder / "policy.pt", *done, tied=outline(read_config(base)).tied)
            write_manifest(
                folder,
                kind="model",
                files=list(folder.iterdir()),
                inputs=inputs,
                settings=asked.model_dump(exclude={"training"}),  # they are the run's
                facts={"parameters": parameters, "step": chosen.step, "heldout_loss": chosen.heldout_loss},
                digest=model_content(folder),
            )
    print(f"{output}: step {chosen.step} in {asked.dtype}, from {manifests['base']['kind']} {base}", file=sys.stderr)


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


def _chosen(run: Path, training: Manifest, asked: Export, heldout: Manifest | None) -> Candidate:
    """The checkpoint that is asked for. Raises NotExportable, and ManifestError if it is damaged."""
    evaluation = asked.evaluation.model_dump() if asked.evaluation else None
    chosen = find(run, training["facts"], asked.export, evaluation, heldout["digest"] if heldout else None)
    marker = read_marker(chosen.folder)
    if chosen.folder != final_weights(run, training["facts"]) and not (marker and verified(marker)):
        raise ManifestError(
            f"{chosen.folder} is damaged: its files are not as they were written. Fix: export another checkpoint, or "
            f"delete {run} and {chosen.folder.parent} to train again"
        )
    return chosen


def _check_weights(run: Path, training: Manifest, chosen: Candidate, digests: Mapping[str, str]) -> None:
    """Raise ManifestError unless the final weights are those that the summary describes."""
    is_final = chosen.folder == final_weights(run, training["facts"])
    if is_final and weights_digest(digests) != training["facts"]["weights_sha256"]:
        raise ManifestError(
            f"{chosen.folder} holds other weights than {run} describes: they were changed or damaged. Fix: "
            "delete that folder, and start the pipeline again; the training continues from its last checkpoint"
        )


def _progress(run: Path, facts: Mapping[str, Any], step: int) -> tuple[int, Mapping[str, Any]]:
    """Examples that were trained on until a step, and the metrics of that step."""
    if step == facts["steps"]:
        return facts["examples"], facts["final_metrics"]
    file = final_weights(run, facts).parent / "metrics.jsonl"
    curve = read_metrics(file)
    check_curve(file, curve, step)
    lines = [line for line in curve if "loss" in line and line["step"] <= step]
    return sum(line["examples"] for line in lines), lines[-1]


if __name__ == "__main__":
    typer.run(main)
