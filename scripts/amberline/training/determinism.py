"""The same bits in every run on GPUs, too, where torch has operations that give them."""

import os

import torch

from amberline.recipe.hardware import Hardware


def settle_determinism(hardware: Hardware, device: torch.device) -> None:
    """From now on, on CUDA, use only operations that give the same bits each time, if the hardware settings say so.

    torch raises RuntimeError, naming the operation, where it has none. A CPU's are deterministic anyway.
    """
    if not hardware.deterministic or device.type != "cuda":
        return
    # Read when the first matrix product is made: work space of its own for each stream.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory before it writes there, so that none need be filled.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # What the compiler would choose by timing, it chooses by rule.
    torch._inductor.config.deterministic = True
