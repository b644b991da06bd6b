"""Matrix products in whichever of torch's CPU libraries is the faster one."""

import torch

# Bytes of a product that oneDNN makes at once: little enough to be still in the cache when it is copied.
PIECE_BYTES = 4 * 2**20
# Rows of the tiles that products are made of. One that is not full costs as much as a full one.
TILE = 64


def multiply_transposed(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """Write left · rightᵀ into `out`; return it.

    left [M, K] and right [N, K] are of one dtype, out [M, N] of this or a wider one.

    float32 on a CPU goes to oneDNN. torch itself hands it to MKL, which takes a fifth to a half longer for the output
    head's shapes on an AMD EPYC (benchmarks/output_head.py has the whole head). The operator is the one that torch's
    own compiler emits; where a build of torch lacks it, this is torch's product. It cannot write into memory that is
    there, so it makes a piece at a time, which is copied.

    Only full tiles go to oneDNN: it keeps the code that it compiles for each shape, and with a new shape in each
    micro-batch that fragments the heap (a process grew by a sixth in a hundred conversations).
    """
    tiles = len(left) > 0 and len(left) % TILE == 0
    if tiles and left.device.type == "cpu" and left.dtype == torch.float32 and _has_onednn():
        columns = max(1, PIECE_BYTES // (len(left) * left.itemsize))
        for piece, rows in zip(out.split(columns, dim=1), right.split(columns), strict=True):
            piece.copy_(torch.ops.mkldnn._linear_pointwise(left, rows, None, "none", [], ""))
    elif left.dtype == out.dtype:
        torch.mm(left, right.T, out=out)
    else:
        out.copy_(left @ right.T)
    return out


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
