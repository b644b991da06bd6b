"""Measure a finished model on data that it never saw: perplexity of conversations, rewards of preference pairs.

Start it by itself for one process, or with `torchrun --nproc-per-node N` for N.
"""

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from datasets import Dataset

from amberline.core.files import whole_file
from amberline.core.manifests import ManifestError, verify, write_manifest
from amberline.data.tokens import IGNORED, BadTokens, open_tokens
from amberline.hub.model_names import ModelError
from amberline.objectives.rewards import ahead, preference_metrics
from amberline.recipe.evaluation import Measures
from amberline.recipe.hardware import Hardware
from amberline.training.ranks import FirstRankFailed, destroy_ranks, init_ranks
from amberline.training.scoring import PAIR, SEQUENCE, Frozen, ScoringError, load_frozen, score


def perplexity(frozen: Frozen, conversations: Dataset) -> dict[str, Any]:
    """exp of the mean −log p over all target tokens; null where no conversation was held out."""
    targets = sum(sum(label != IGNORED for label in row["labels"][1:]) for row in conversations)
    if not targets:
        return {"perplexity": None, "perplexity_tokens": 0}
    total = score(frozen, conversations, SEQUENCE).sum()
    return {"perplexity": math.exp(-total / targets), "perplexity_tokens": targets}


def rewards(logps: npt.NDArray[np.float64], reference: npt.NDArray[np.float64], beta: float) -> dict[str, float]:
    """Means over pairs of `preference_metrics`, from the log-probabilities of chosen and rejected responses, [N, 2]."""
    each = preference_metrics(*logps.T, *reference.T, beta)
    # Whether the chosen response is the more likely one, without a reference.
    each["logps/accuracies"] = ahead(logps[:, 0] - logps[:, 1])
    return {name: float(np.mean(values)) for name, values in each.items()}


def main(
    model: Annotated[Path, typer.Option(help="Hugging Face folder of the model")],
    conversations: Annotated[Path, typer.Option(help="token folder of held-out conversations")],
    pairs: Annotated[Path, typer.Option(help="token folder of test pairs")],
    reference: Annotated[Path, typer.Option(help="token folder of the reference's log-probabilities of those pairs")],
    settings: Annotated[str, typer.Option(help="how many pairs, beta, precision, as JSON")],
    hardware: Annotated[str, typer.Option(help="JSON of machine and layout, as under hardware in config.yaml")],
    output: Annotated[Path, typer.Option(help="JSON file to write")],
) -> None:
    """Measure a finished model on data that it never saw."""
    asked, machine = Measures.model_validate_json(settings), Hardware.model_validate_json(hardware)
    ranks = init_ranks(machine.device, machine.cpus_per_rank)
    if asked.tf32 and machine.device == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        ranks.from_first(lambda: [verify(folder)["digest"] for folder in (model, conversations, pairs, reference)])
        rows, scored = open_tokens(pairs), open_tokens(reference)
        if rows["id"][:] != scored["id"][:]:
            raise ManifestError(f"{reference} holds scores of other pairs than {pairs}: delete it and make it again")
        count = min(asked.pairs or len(rows), len(rows))
        rows, scored = rows.select(range(count)), scored.select(range(count))
        frozen = load_frozen(model, machine, asked.precision, ranks)
        metrics: dict[str, Any] = {
            "model": model.name,
            **perplexity(frozen, open_tokens(conversations)),
            "pairs": count,
        }
        kept = np.column_stack([scored["chosen_logp"][:], scored["rejected_logp"][:]])
        metrics |= rewards(score(frozen, rows, PAIR), kept, asked.beta)
        if ranks.first:
            with whole_file(output) as partial:
                partial.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
            inputs = {"model": model, "conversations": conversations, "pairs": pairs, "reference": reference}
            write_manifest(
                output, kind="evaluation", files=[output], inputs=inputs, settings=asked.model_dump(), facts={}
            )
    except (BadTokens, FirstRankFailed, ManifestError, ModelError, ScoringError) as error:
        if ranks.first:
            print(f"evaluate: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    finally:
        destroy_ranks()


if __name__ == "__main__":
    typer.run(main)
