"""torch's RMSNorm in the place of transformers', which computes in float32 even where the model is float64."""

import copy

import torch
import torch.nn.functional as F
from torch import nn


def use_exact_norms(model: nn.Module) -> None:
    """Replace each norm that is x / rms(x) · weight, whatever its class; others, as Gemma's (1 + weight), stay."""
    plain: dict[type[nn.Module], bool] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if not _looks_like_a_norm(child):
                continue
            if type(child) not in plain:
                plain[type(child)] = _is_plain(child)
            if plain[type(child)]:
                weight = child.weight
                setattr(parent, name, nn.RMSNorm(weight.shape, _epsilon(child), device="meta", dtype=weight.dtype))


def _looks_like_a_norm(module: nn.Module) -> bool:
    parameters = dict(module.named_parameters())
    alone = list(parameters) == ["weight"] and parameters["weight"].ndim == 1
    return alone and _epsilon(module) is not None and not isinstance(module, nn.RMSNorm | nn.LayerNorm)


def _epsilon(module: nn.Module) -> float | None:
    return next((getattr(module, name) for name in ("variance_epsilon", "eps") if hasattr(module, name)), None)


@torch.no_grad()
def _is_plain(norm: nn.Module) -> bool:
    """Whether a norm computes what torch's does, tried on states so small that its epsilon shows."""
    twin, epsilon = copy.deepcopy(norm).to_empty(device="cpu").float(), _epsilon(norm)
    weight = twin.get_parameter("weight")
    weight.copy_(torch.linspace(0.5, 2, len(weight)))
    states = torch.linspace(-1e-3, 3e-3, 3 * len(weight)).reshape(1, 3, -1)
    try:
        found = twin(states)
    except (TypeError, RuntimeError):  # it wants more than states
        return False
    return torch.allclose(found, F.rms_norm(states, weight.shape, weight, epsilon), rtol=1e-5, atol=0)
