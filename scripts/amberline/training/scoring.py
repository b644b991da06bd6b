"""Log-probabilities of preference pairs under a frozen model, on any number of processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from tqdm import tqdm

from amberline.batches.layout import lay_out
from amberline.model.attention import choose_attention
from amberline.model.forward import PackedLlama, document_logps, token_logps
from amberline.model.load import load_model
from amberline.model.packed import IGNORED, PackedBatch, pack
from amberline.settings.hardware import Hardware
from amberline.training.ranks import Ranks

SIDES = ("chosen", "rejected")

# Pairs laid out at a time: enough for micro-batches of equal size, few enough for a lively progress bar.
WINDOW = 512
# Tokens computed at once when that is `auto`. No activations are kept, so a GPU takes more than in training.
AUTO_TOKENS = {"cpu": 4096, "cuda": 16384}

# For a process that has no pairs left while others have: sharded models need all of them.
_NOTHING = ([0, 0], [IGNORED, 0], 0.0)


class ScoringError(Exception):
    """Pairs that cannot be scored."""


@dataclass(frozen=True)
class Scores:
    """log p of every pair's responses under the model, in the order of the rows."""

    logps: npt.NDArray[np.float64]  # [N, 2]: chosen, rejected
    attention: str  # the kind that was used


def score_pairs(model: Path, pairs: Dataset, hardware: Hardware, precision: str, ranks: Ranks) -> Scores:
    """Score every row of a token folder of pairs with the model in a folder.

    Sums are of the float32 log-probabilities of the responses' tokens. All processes get all scores. Raises
    ScoringError naming the rows whose score is not finite, and ModelError.
    """
    attention, why = choose_attention(hardware.attention, ranks.device)
    if ranks.first:
        tqdm.write(f"attention: {attention}, because {why}")
    loaded = load_model(
        model,
        device=ranks.device,
        mesh=ranks.mesh,
        compute_dtype=getattr(torch, precision),
        attention=attention,
        # Gathered parameters stay: there are no gradients and no optimizer that need the room.
        reshard_after_forward=hardware.reshard_after_forward is True,
        compile=hardware.compile,
    )
    budget = hardware.micro_batch_tokens
    tokens = AUTO_TOKENS[ranks.device.type] if budget == "auto" else budget
    scored = ranks.gather(list(_score(loaded, pairs, tokens, ranks)))
    logps = np.full((len(pairs), 2), np.nan)
    for rows, values in (each for of_rank in scored for each in of_rank):
        logps[rows] = values
    bad = np.flatnonzero(~np.isfinite(logps).all(axis=1))
    if len(bad):
        names = ", ".join(repr(pairs[int(row)]["id"]) for row in bad[:3])
        raise ScoringError(
            f"{len(bad)} pairs have a log-probability that is not finite, the first of them {names}: "
            "the model's weights are unsound, or the precision is too low for them"
        )
    return Scores(logps, attention)


@torch.no_grad()
def _score(
    model: PackedLlama, pairs: Dataset, budget: int, ranks: Ranks
) -> Iterator[tuple[list[int], npt.NDArray[np.float64]]]:
    """The rows that fall to this process, and their log-probabilities."""
    lengths, rows_of = pairs["length"][:], pairs.with_format("numpy")
    progress = tqdm(total=len(pairs), desc="scoring", unit=" pairs", disable=not ranks.first)
    for start in range(0, len(pairs), WINDOW):
        window = lengths[start : start + WINDOW]
        for positions in lay_out(window, budget, ranks.world)[ranks.rank]:
            rows = [start + position for position in positions]
            batch = _pack(rows_of, rows).to(ranks.device)
            # Summed in float64: a sum of a thousand float32 values would lose digits that the policy's sum keeps.
            logps = document_logps(token_logps(model, batch).double(), batch)
            yield rows, logps[: 2 * len(rows)].reshape(-1, 2).cpu().numpy()
        progress.update(len(window))
    progress.close()


def _pack(pairs: Dataset, rows: list[int]) -> PackedBatch:
    found = [pairs[row] for row in rows]
    documents = [(row[f"{side}_input_ids"], row[f"{side}_labels"], 1.0) for row in found for side in SIDES]
    return pack(documents or [_NOTHING])
