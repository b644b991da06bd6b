"""Log-probabilities of the targets, from hidden states, without ever holding the logits of a whole batch.

Only hidden states that predict a target come here. They are multiplied with the output matrix a chunk at a time;
softmax and sums are in float32 at least (float64 for a float64 model), whatever the dtype of the matrix product.

torch 2.13's `linear_cross_entropy` does the like. It is not used: its per-token form, which weights of each target
need, takes several times as long on the CPU (benchmarks/RESULTS.md), and torch 2.11 does not have it.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from amberline.model.products import TILE, multiply_transposed

# Bytes of one chunk's logits: large enough for the matrix products to be efficient, and no larger. glibc takes larger
# blocks fresh from the system each time, which costs a CPU as much as larger products gain.
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}
# Bytes of logits whose softmax is taken at once. Pieces of this size stay in a core's cache from one pass over them to
# the next, which makes the softmax faster on a CPU; a GPU takes the whole chunk.
PIECE_BYTES = {"cpu": 2**20, "cuda": CHUNK_BYTES["cuda"]}
# Bytes of softmax that are remembered for the backward pass of log-probabilities. On a CPU, with small models, the
# output matrix is most of the work, and computing the logits again costs much; on a GPU with large ones it does not.
KEPT_BYTES = {"cpu": 512 * 2**20, "cuda": 0}


def log_probabilities(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log p(target) of each row: hidden [L, width], weight [vocabulary, width], targets [L] int64 → [L] float32.

    The backward pass computes the logits of those chunks again whose softmax had no room in KEPT_BYTES.
    """
    result: torch.Tensor = _LogProbabilities.apply(hidden, weight, targets, torch.is_grad_enabled())
    return result


def weighted_loss(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, target_weights: torch.Tensor
) -> torch.Tensor:
    """−Σ target_weights · log p(target), a float64 scalar.

    The weights are known, so gradients are computed along with the loss and the logits but once.
    """
    result: torch.Tensor = _WeightedLoss.apply(hidden, weight, targets, target_weights, torch.is_grad_enabled())
    return result


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, with_gradient: bool
    ) -> torch.Tensor:
        result = hidden.new_empty(len(hidden), dtype=_exact(hidden))
        ctx.kept = []
        room = KEPT_BYTES[hidden.device.type] if with_gradient else 0
        scratch = None
        for rows in _chunks(hidden, weight):
            room -= len(hidden[rows]) * _row_bytes(hidden, weight)
            keep = room >= 0
            softmax = _Softmax(hidden[rows], weight, targets[rows], None if keep else scratch)
            result[rows] = softmax.logps
            if keep:
                ctx.kept.append(softmax)
            else:
                scratch = softmax
        ctx.save_for_backward(hidden, weight, targets)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        hidden, weight, targets = ctx.saved_tensors
        gradients = _Gradients(hidden, weight)
        kept, ctx.kept = iter(ctx.kept), []
        scratch = None
        for rows in _chunks(hidden, weight):
            softmax = next(kept, None)
            if softmax is None:
                softmax = scratch = _Softmax(hidden[rows], weight, targets[rows], scratch)
            gradients.add(rows, softmax, -grad[rows])
        return gradients.of_hidden, gradients.of_weight.to(weight.dtype), None, None


class _WeightedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        target_weights: torch.Tensor,
        with_gradient: bool,
    ) -> torch.Tensor:
        loss = hidden.new_zeros((), dtype=torch.float64)
        gradients = _Gradients(hidden, weight) if with_gradient else None
        softmax = None
        for rows in _chunks(hidden, weight):
            softmax = _Softmax(hidden[rows], weight, targets[rows], softmax)
            loss -= (softmax.logps.double() * target_weights[rows]).sum()
            if gradients:
                gradients.add(rows, softmax, target_weights[rows])
        if gradients:
            ctx.save_for_backward(gradients.of_hidden, gradients.of_weight.to(weight.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None, None]:
        of_hidden, of_weight = ctx.saved_tensors
        return of_hidden * grad.to(of_hidden.dtype), of_weight * grad.to(of_weight.dtype), None, None, None


class _Softmax:
    """log p of a chunk's targets, and the gradient of −log p with respect to the logits, not yet divided by `sums`.

    Takes over the memory of an earlier one, if given: on the CPU, fresh memory costs as much as the softmax itself.
    """

    def __init__(
        self, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, earlier: "_Softmax | None"
    ) -> None:
        rows, exact = len(hidden), _exact(hidden)
        self._memory: torch.Tensor = (
            hidden.new_empty(rows, len(weight), dtype=exact) if earlier is None else earlier._memory
        )
        self.sums = hidden.new_empty(rows, dtype=exact)
        self.logps = torch.empty_like(self.sums)
        # exp(logit − largest), minus `sums` at the target. Rows are divided later, where fewer numbers have to be.
        self.slope = multiply_transposed(hidden, weight, out=self._memory[:rows])
        for piece in _pieces(rows, PIECE_BYTES[hidden.device.type] // _row_bytes(hidden, weight)):
            logits, of_targets = self.slope[piece], targets[piece, None]
            logits.sub_(logits.amax(dim=1, keepdim=True))
            exponents = logits.gather(1, of_targets).squeeze(1)
            sums = torch.sum(logits.exp_(), dim=1, out=self.sums[piece])
            torch.sub(exponents, sums.log(), out=self.logps[piece])
            logits.scatter_add_(1, of_targets, -sums[:, None])


class _Gradients:
    """Gradients of −Σ scale · log p(target) with respect to hidden states and output matrix, gathered over chunks."""

    def __init__(self, hidden: torch.Tensor, weight: torch.Tensor) -> None:
        self.hidden = hidden
        self.weight = weight
        self.of_hidden = torch.empty_like(hidden)
        self.of_weight = torch.zeros_like(weight, dtype=_exact(weight))

    def add(self, rows: slice, softmax: _Softmax, scales: torch.Tensor) -> None:
        """Add a chunk, of which the softmax is used up."""
        factors = (scales.to(softmax.sums.dtype) / softmax.sums)[:, None]
        of_hidden, hidden = self.of_hidden[rows], self.hidden[rows]
        if softmax.slope.dtype == self.weight.dtype:
            multiply_transposed(softmax.slope, self.weight.T, out=of_hidden).mul_(factors)
            self.of_weight.addmm_(softmax.slope.T, hidden * factors)
        else:  # scaled before they are rounded, so that they are rounded once
            slope = softmax.slope.mul_(factors).to(self.weight.dtype)
            multiply_transposed(slope, self.weight.T, out=of_hidden)
            self.of_weight += slope.T @ hidden


def _chunks(hidden: torch.Tensor, weight: torch.Tensor) -> Iterator[slice]:
    size = CHUNK_BYTES[hidden.device.type] // _row_bytes(hidden, weight)
    if size > TILE:
        size -= size % TILE
    return _pieces(len(hidden), size)


def _pieces(rows: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))


def _row_bytes(hidden: torch.Tensor, weight: torch.Tensor) -> int:
    """Bytes of one row of logits."""
    return len(weight) * _exact(hidden).itemsize


def _exact(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
