"""Log-probabilities of sequences and preference pairs under a frozen model, on any number of processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel

from amberline.batches.layout import lay_out
from amberline.core.progress import progress
from amberline.hub.model_names import ModelError
from amberline.model import estimates
from amberline.model.attention import choose_attention
from amberline.model.files import read_config
from amberline.model.forward import document_logps, inference, token_logps
from amberline.model.load import load_model
from amberline.model.packed import PADDING_DOCUMENT, PackedBatch, pack
from amberline.model.probe import probe
from amberline.model.sizes import ModelSizes, sizes_of
from amberline.recipe.hardware import Hardware
from amberline.training.autotune import FEWEST_TOKENS, GIB, USABLE
from amberline.training.determinism import settle_determinism
from amberline.training.ranks import Ranks

# Columns of token ids and labels: of a conversation, and of the two sides of a pair.
SEQUENCE = (("input_ids", "labels"),)
PAIR = (("chosen_input_ids", "chosen_labels"), ("rejected_input_ids", "rejected_labels"))

# Rows laid out at a time: enough for micro-batches of equal size, few enough for a lively progress bar.
WINDOW = 512
# Tokens computed at once when that is `auto`. No activations are kept, so a GPU takes more than in training.
AUTO_TOKENS = {"cpu": 4096, "cuda": 16384}


class ScoringError(Exception):
    """Rows that cannot be scored."""


@dataclass(frozen=True)
class Frozen:
    """A model that is only asked, never trained."""

    model: PreTrainedModel
    attention: str  # the kind in use
    budget: int  # tokens computed at once
    ranks: Ranks


def load_frozen(folder: Path, hardware: Hardware, precision: str, ranks: Ranks, *, tf32: bool) -> Frozen:
    """Load a model to score with; sharded, where there are several processes. Raises ModelError.

    `tf32` lets float32 matrix products on CUDA use tf32, from now on.
    """
    settle_determinism(hardware, ranks.device)
    if tf32 and ranks.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    dtype, config = getattr(torch, precision), read_config(folder)
    sizes = sizes_of(config)
    attention, why = choose_attention(hardware.attention, ranks.device, dtype, sizes.head_width)
    shards, reshard, budget = _layout(hardware, sizes, dtype.itemsize, ranks)
    probe(config, device=ranks.device, dtype=dtype, attention=attention, compile=hardware.compile)
    if ranks.first:
        tqdm.write(f"attention: {attention}, because {why}")
    model = load_model(
        folder,
        device=ranks.device,
        mesh=ranks.mesh(shards),
        compute_dtype=dtype,
        attention=attention,
        reshard_after_forward=reshard,
        compile=hardware.compile,
    )
    return Frozen(model, attention, budget, ranks)


def _layout(hardware: Hardware, sizes: ModelSizes, compute_bytes: int, ranks: Ranks) -> tuple[int, bool, int]:
    """Over how many processes parameters are sharded, whether they are gathered anew for each forward pass, and the
    tokens that are computed at once.

    Gathered parameters stay where there is room: no gradients and no optimizer need it. They are gathered within a node
    where they fit into it. Raises ModelError where the model has no room at all.
    """
    kept, asked, device = hardware.reshard_after_forward, hardware.micro_batch_tokens, ranks.device.type
    reshards = [False, True] if kept == "auto" else [kept]
    most = AUTO_TOKENS[device] if asked == "auto" else asked
    if device == "cpu":
        return ranks.shardings[0], reshards[0], most
    memory = torch.cuda.get_device_properties(ranks.device).total_memory * USABLE
    for tokens in [most] if asked != "auto" else [most, FEWEST_TOKENS, 1024]:
        for shards, reshard in product(ranks.shardings, reshards):
            needed = estimates.frozen_bytes(
                sizes, compute_bytes=compute_bytes, shards=shards, reshard=reshard, device=device, tokens=tokens
            )
            if needed <= memory:
                return shards, reshard, tokens
    raise ModelError(
        f"the model needs {needed / GIB:.0f} GiB of memory on each GPU (there are {ranks.world}) to be run, and "
        f"{memory / GIB:.0f} GiB can be used. Fix: use more GPUs (nodes and ranks_per_node under hardware), or set "
        "micro_batch_tokens and reshard_after_forward to auto"
    )


def score(frozen: Frozen, rows: Dataset, sides: Sequence[tuple[str, str]]) -> npt.NDArray[np.float64]:
    """log p of every row's targets, [N, sides]: SEQUENCE or PAIR says which columns a side is.

    Sums are of float32 log-probabilities. All processes get all scores. Raises ScoringError naming the rows whose
    score is not finite.
    """
    with inference(frozen.model):
        scored = frozen.ranks.gather(list(_score(frozen, rows, sides)))
    logps = np.full((len(rows), len(sides)), np.nan)
    for places, values in (each for of_rank in scored for each in of_rank):
        logps[places] = values
    bad = np.flatnonzero(~np.isfinite(logps).all(axis=1))
    if len(bad):
        names = ", ".join(repr(rows[int(row)]["id"]) for row in bad[:3])
        raise ScoringError(
            f"{len(bad)} rows have a log-probability that is not finite, the first of them {names}: "
            "the model's weights are unsound, or the precision is too low for them. Fix: set precision to float32; if "
            "it is that already, look at the curve of the model's training"
        )
    return logps


def _score(
    frozen: Frozen, rows: Dataset, sides: Sequence[tuple[str, str]]
) -> Iterator[tuple[list[int], npt.NDArray[np.float64]]]:
    """The rows that fall to this process, and their log-probabilities."""
    ranks, lengths, readable = frozen.ranks, rows["length"][:], rows.with_format("numpy")
    bar = progress(total=len(rows), desc="scoring", unit=" rows", disable=not ranks.first)
    for start in range(0, len(rows), WINDOW):
        window = lengths[start : start + WINDOW]
        for positions in lay_out(window, frozen.budget, ranks.world)[ranks.rank]:
            places = [start + position for position in positions]
            batch = _pack(readable, places, sides).to(ranks.device)
            # Summed in float64: a sum of a thousand float32 values would lose digits that the policy's sum keeps.
            logps = document_logps(token_logps(frozen.model, batch).double(), batch)
            yield places, logps[: len(sides) * len(places)].reshape(-1, len(sides)).cpu().numpy()
        bar.update(len(window))
    bar.close()


def _pack(rows: Dataset, places: list[int], sides: Sequence[tuple[str, str]]) -> PackedBatch:
    found = [rows[place] for place in places]
    documents = [(row[ids], row[labels], 1.0) for row in found for ids, labels in sides]
    return pack(documents or [PADDING_DOCUMENT])
