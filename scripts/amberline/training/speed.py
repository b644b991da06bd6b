"""How fast a step was, and how much of what the GPU can do."""

import torch

# Dense peak of the matrix units in FLOP/s, by a part of the device's name. Makers' data sheets.
PEAKS = {
    "bfloat16": {"H200": 989e12, "H100": 989e12, "A100": 312e12},
    "tf32": {"H200": 494e12, "H100": 494e12, "A100": 156e12},
    "float32": {"H200": 67e12, "H100": 67e12, "A100": 19.5e12},
}


def peak_flops(device: torch.device, precision: str, tf32: bool) -> float | None:
    """The device's peak in FLOP/s, or None where it is not known."""
    if device.type != "cuda":
        return None
    kind = "tf32" if precision == "float32" and tf32 else precision
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS[kind].items() if part in name), None)
