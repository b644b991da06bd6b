"""Documents laid end to end, without padding: what the model computes at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from amberline.data.tokens import IGNORED

# A document for ranks without data in a micro-batch: one token, predicted with weight zero.
PADDING_DOCUMENT = ([0, 0], [IGNORED, 0], 0.0)


@dataclass(frozen=True)
class PackedBatch:
    """D documents of T tokens together, of which L are targets. Documents never see each other.

    Behind them may come documents of padding, whose tokens are counted in T, and which nothing else knows of.
    """

    input_ids: torch.Tensor  # [T] int64
    position_ids: torch.Tensor  # [T] int64, from 0 in each document
    cu_seqlens: torch.Tensor  # [D + 1 + padding] int32: document d is tokens cu_seqlens[d] to cu_seqlens[d + 1]
    max_length: int  # tokens of the longest document
    target_positions: torch.Tensor  # [L] int64, the token whose hidden state predicts the target: the one before it
    targets: torch.Tensor  # [L] int64, token ids
    target_weights: torch.Tensor  # [L] float64, weight of each target's -log p in the loss of the whole step
    target_documents: torch.Tensor  # [L] int64, index of each target's document
    padding: int = 0  # documents of padding

    @property
    def documents(self) -> int:
        """D, the number of documents."""
        return self.cu_seqlens.numel() - 1 - self.padding

    def padded(self, tokens: int, longest: int) -> "PackedBatch":
        """The same batch with so many tokens, and with documents of up to `longest` for all who ask.

        No token of padding is a target, so neither losses nor gradients change, but for rounding: products of other
        sizes are added up in another order. Raises ValueError where the batch is larger already.
        """
        missing = tokens - self.input_ids.numel()
        if missing < 0 or self.max_length > longest:
            raise ValueError(f"{self.input_ids.numel()} tokens, {self.max_length} in a document: no room for padding")
        # In pieces, for attention's work grows with the square of a document's length.
        pieces = [min(longest, missing - start) for start in range(0, missing, longest)]
        ends = torch.from_numpy(tokens - missing + np.cumsum(pieces, dtype=np.int32))
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, self.input_ids.new_zeros(missing)]),
            position_ids=torch.cat([self.position_ids, *(torch.arange(piece) for piece in pieces)]),
            cu_seqlens=torch.cat([self.cu_seqlens, ends.int()]),
            max_length=longest,
            padding=self.padding + len(pieces),
        )

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same batch on another device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> "PackedBatch":
        """The same batch in memory that a GPU reads by itself: the host need not wait for the copy."""
        return self._with(torch.Tensor.pin_memory)

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "PackedBatch":
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {
            name: change(value) for name, value in values.items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **changed)


def pack(examples: Sequence[tuple[Any, Any, Any]], *, whole: bool = False) -> PackedBatch:
    """Lay examples end to end.

    Each example is (ids, labels, weights): token ids; unshifted labels of the same length, IGNORED where there is no
    loss; and for each token the weight of its label, or one number for all. The first token of a document has nothing
    before it to be predicted from, so it is never a target.

    What no target is predicted from – the last target itself and all that follows it – can change nothing and is left
    out, but for a first token, so that every document stays. `whole` keeps it, for those who want each hidden state.

    Raises ValueError on an empty document or unequal lengths.
    """
    if not examples:
        raise ValueError("a batch needs at least one document")
    lengths, tokens, positions, targets, weights = [], [], [], [], []
    start = 0
    for number, (ids, labels, weight) in enumerate(examples):
        length = len(ids)
        label = np.asarray(labels, dtype=np.int64)
        if length == 0 or len(label) != length:
            raise ValueError(f"document {number} has {length} tokens and {len(label)} labels")
        # Token i of the document is predicted by token i - 1.
        scored = np.flatnonzero(label[1:] != IGNORED)
        positions.append(scored + start)
        targets.append(label[scored + 1])
        weights.append(np.broadcast_to(np.asarray(weight, dtype=np.float64), (length,))[scored + 1])
        used = length if whole else 1 + int(scored[-1]) if len(scored) else 1
        tokens.append(np.asarray(ids[:used], dtype=np.int64))
        lengths.append(used)
        start += used
    return PackedBatch(
        input_ids=torch.from_numpy(np.concatenate(tokens)),
        position_ids=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])),
        cu_seqlens=torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)),
        max_length=max(lengths),
        target_positions=torch.from_numpy(np.concatenate(positions)),
        targets=torch.from_numpy(np.concatenate(targets)),
        target_weights=torch.from_numpy(np.concatenate(weights)),
        target_documents=torch.from_numpy(np.repeat(np.arange(len(lengths)), [len(each) for each in targets])),
    )
