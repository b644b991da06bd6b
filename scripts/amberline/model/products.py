"""Matrix products in whichever of torch's CPU libraries is the faster one."""

import torch


def times_transposed(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left · rightᵀ: left [M, K], right [N, K] of one dtype → [M, N].

    float32 on a CPU goes to oneDNN. torch itself hands it to MKL, which takes a fifth to a half longer for the output
    head's shapes on an AMD EPYC (benchmarks/output_head.py has the whole head). The operator is the one that torch's
    own compiler emits; where a build of torch lacks it, this is torch's product.
    """
    if _has_onednn() and left.device.type == "cpu" and left.dtype == torch.float32 and left.numel():
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
        return result
    return left @ right.T


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
