"""Gradients of a whole step: their norm, and clipping."""

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def synchronise(model: nn.Module, *, last: bool, keep_gathered: bool, reduce_each: bool = False) -> None:
    """Before each micro-batch: gradients are reduced over processes once a step, in the last backward pass.

    Until then each process holds them whole. With `reduce_each` every backward pass reduces them, to its shard; where
    parameters are replicated, the replicas' shards are added up in the last one all the same.
    Parameters that are kept gathered after the forward pass need not be gathered anew for the next micro-batch either.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last or reduce_each)
        model.set_requires_all_reduce(last)
        model.set_reshard_after_backward(last or not keep_gathered)


def squared_gradients(model: nn.Module) -> torch.Tensor:
    """The sum of the squares of this process's shard of all gradients. Their sum over processes is the squared norm.

    Where parameters are replicated, every replica has the same gradients, and those of the first one are counted.
    In float64, so that how parameters are cut into shards shows in no more than the last bits of the norm, and not in
    the gradients that are clipped with it. A scalar on the gradients' device: nothing waits for it here.
    """
    gradients = _local_gradients(model) if _is_first_replica(model) else []
    if not gradients:
        return torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)
    return torch.stack(torch._foreach_norm(gradients, 2, torch.float64)).square().sum()


def _is_first_replica(model: nn.Module) -> bool:
    """Whether this process has its shards in the first of all replicas, or in the only one."""
    mesh = next((each.device_mesh for each in model.parameters() if isinstance(each, DTensor)), None)
    return mesh is None or mesh.ndim == 1 or mesh.get_local_rank("replicate") == 0


def clip(model: nn.Module, norm: float, max_norm: float) -> None:
    """Scale gradients to `max_norm` if their norm is greater, as `torch.nn.utils.clip_grad_norm_` does."""
    scale = max_norm / (norm + 1e-6)
    if scale < 1:
        torch._foreach_mul_(_local_gradients(model), scale)


def _local_gradients(model: nn.Module) -> list[torch.Tensor]:
    """This process's shard of each gradient. An empty shard, where there are more processes than rows, is left out."""
    gradients = (parameter.grad for parameter in model.parameters() if parameter.grad is not None)
    return [gradient for gradient in map(local, gradients) if gradient.numel()]


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor: its shard, or all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
