"""Log-probabilities of the targets, from hidden states, without ever holding the logits of a whole batch.

Only hidden states that predict a target come here. They are multiplied with the output matrix a chunk at a time;
softmax and sums are in float32 at least (float64 for a float64 model), whatever the dtype of the matrix product.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Bytes of one chunk's logits: small enough for a CPU's cache, large enough to fill a GPU.
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}


def log_probabilities(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log p(target) of each row: hidden [L, width], weight [vocabulary, width], targets [L] int64 → [L] float32.

    The backward pass computes the logits again, chunk by chunk.
    """
    result: torch.Tensor = _LogProbabilities.apply(hidden, weight, targets)
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
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        normalizers = hidden.new_empty(len(hidden), dtype=_exact(hidden))
        result = torch.empty_like(normalizers)
        for rows in _chunks(hidden, weight):
            logits = _logits(hidden[rows], weight)
            normalizers[rows] = logits.logsumexp(dim=1)
            result[rows] = _at(logits, targets[rows]) - normalizers[rows]
        ctx.save_for_backward(hidden, weight, targets, normalizers)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        hidden, weight, targets, normalizers = ctx.saved_tensors
        gradients = _Gradients(hidden, weight)
        for rows in _chunks(hidden, weight):
            logits = _logits(hidden[rows], weight)
            gradients.add(rows, logits, normalizers[rows], targets[rows], -grad[rows])
        return gradients.of_hidden, gradients.of_weight.to(weight.dtype), None


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
        for rows in _chunks(hidden, weight):
            logits = _logits(hidden[rows], weight)
            normalizers = logits.logsumexp(dim=1)
            loss += ((normalizers - _at(logits, targets[rows])).double() * target_weights[rows]).sum()
            if gradients:
                gradients.add(rows, logits, normalizers, targets[rows], target_weights[rows].to(logits.dtype))
        if gradients:
            ctx.save_for_backward(gradients.of_hidden, gradients.of_weight.to(weight.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None, None]:
        of_hidden, of_weight = ctx.saved_tensors
        return of_hidden * grad.to(of_hidden.dtype), of_weight * grad.to(of_weight.dtype), None, None, None


class _Gradients:
    """Gradients of −Σ scale · log p(target) with respect to hidden states and output matrix, gathered over chunks."""

    def __init__(self, hidden: torch.Tensor, weight: torch.Tensor) -> None:
        self.hidden = hidden
        self.weight = weight
        self.of_hidden = torch.empty_like(hidden)
        self.of_weight = torch.zeros_like(weight, dtype=_exact(weight))

    def add(
        self,
        rows: slice,
        logits: torch.Tensor,
        normalizers: torch.Tensor,
        targets: torch.Tensor,
        scales: torch.Tensor,
    ) -> None:
        """Add a chunk. `logits` is overwritten: it becomes its own gradient, scale · (softmax − one at the target)."""
        slope = logits.sub_(normalizers[:, None]).exp_().mul_(scales[:, None])
        slope.scatter_add_(1, targets[:, None], -scales[:, None])
        slope = slope.to(self.weight.dtype)
        torch.mm(slope, self.weight, out=self.of_hidden[rows])
        if self.of_weight.dtype == slope.dtype:
            self.of_weight.addmm_(slope.T, self.hidden[rows])
        else:
            self.of_weight += slope.T @ self.hidden[rows]


def _chunks(hidden: torch.Tensor, weight: torch.Tensor) -> Iterator[slice]:
    row_bytes = len(weight) * _exact(hidden).itemsize
    size = max(1, CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES["cuda"]) // row_bytes)
    for start in range(0, len(hidden), size):
        yield slice(start, start + size)


def _exact(tensor: torch.Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _logits(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (hidden @ weight.T).to(_exact(hidden))


def _at(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, targets[:, None]).squeeze(1)
