"""How fast a step will be, and how much of what the GPU can do it was."""

import time
from collections.abc import Callable

import torch
from tqdm import tqdm

from amberline.batches.plan import BatchPlan
from amberline.model import estimates
from amberline.model.estimates import Rates
from amberline.model.sizes import ModelSizes
from amberline.objectives.settings import Training
from amberline.training.autotune import Choices, compute_bytes, moments
from amberline.training.ranks import Ranks

# Dense peak of the matrix units in FLOP/s, by a part of the device's name. Makers' data sheets.
PEAKS = {
    "bfloat16": {"H200": 989e12, "H100": 989e12, "A100": 312e12},
    "tf32": {"H200": 494e12, "H100": 494e12, "A100": 156e12},
    "float32": {"H200": 67e12, "H100": 67e12, "A100": 19.5e12},
}

# Operations of the product and bytes of the copy that are timed: large enough for the full rates.
PRODUCT_FLOPS = {"cpu": 4e9, "cuda": 1e12}
COPY_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}
MEASURED_SECONDS = 0.3
SHORTEST_SECONDS = 0.1  # of a step for which an estimate holds: the demo's take four times as long as their products

# Part of the estimate's speed that trainings reach on a GPU: waiting for other processes, for memory and for
# operations to start is not in the estimate. Causal attention counts half.
# H200, measured (benchmarks/RESULTS.md, first light): 6.7B, compiled, on one: 0.70 to 0.79 in bfloat16; 0.50 where
# tensors fill 93% of the memory, which is more than is planned with.
# A100 and H100, from published speeds. A100, 7B, compiled: 68% MFU with full attention, so 63%, where the estimate
# comes to 69 to 73% (pytorch.org/blog/maximizing-training-throughput). H100, 8B on 8, compiled, selective
# checkpointing: 6,667 tokens a second, 35%, where it comes to 47% (github.com/pytorch/torchtitan,
# benchmarks/llama3_h100_202412_torchtitan.md, table 1; its H100s take 500 W, so that others may be faster).
EFFICIENCY = {"A100": 0.88, "H200": 0.77, "H100": 0.72}
OTHER_GPUS = 0.75


def expected_step_seconds(
    plan: BatchPlan, choices: Choices, settings: Training, sizes: ModelSizes, ranks: Ranks
) -> float:
    """Seconds of an average step, at the rates that this device reaches now with tensors of the model's own shapes, and
    on a GPU at the part of them that trainings are known to reach.

    Neither waiting for other processes is in it, nor evaluations and checkpoints, nor what it costs to start each
    operation, which tells in small models. An example counts as one document.
    """
    rates = measure_rates(ranks.device, getattr(torch, settings.precision), sizes, choices.micro_batch_tokens)
    passes = estimates.passes_seconds(
        sizes,
        choices.activation_checkpointing,
        compute_bytes(settings),
        ranks.device.type,
        rates,
        lengths=plan.lengths.tolist(),
        targets=int(plan.targets.sum()),
    )
    update = estimates.optimizer_seconds(sizes, moments=moments(settings), shards=choices.shards, rates=rates)
    examples = plan.examples_before(plan.steps) / plan.steps / ranks.world  # of a step, in this process
    return (passes / len(plan.lengths) * examples + update) / efficiency(ranks.device)


def efficiency(device: torch.device) -> float:
    """Part of the speed of the estimate that a training reaches on this device. On CPUs the estimate is fitted."""
    if device.type != "cuda":
        return 1
    name = torch.cuda.get_device_name(device)
    return next((share for part, share in EFFICIENCY.items() if part in name), OTHER_GPUS)


def told_time(seconds: float, left: int) -> list[str]:
    """What to say before the first step; nothing of steps so short that starting their operations takes longer."""
    if seconds < SHORTEST_SECONDS:
        return []
    return [
        f"time: about {seconds:.2g} s a step, {tqdm.format_interval(seconds * left)} for the {left:,} steps left; "
        "waiting for other processes, evaluations and checkpoints come on top"
    ]


def measure_rates(device: torch.device, dtype: torch.dtype, sizes: ModelSizes, tokens: int) -> Rates:
    """The best of several: a product of an MLP's matrix with `tokens` hidden states or fewer, and a large copy."""
    width, inner = sizes.width, sizes.inner
    rows = max(256, min(tokens, int(PRODUCT_FLOPS[device.type] / (2 * width * inner))))
    # Not from the generator whose state belongs to the run. And not constant: a GPU multiplies those faster.
    noise = torch.Generator(device).manual_seed(0)
    hidden = torch.randn(rows, width, device=device, dtype=dtype, generator=noise)
    weight = torch.randn(inner, width, device=device, dtype=dtype, generator=noise)
    product = hidden @ weight.T
    flops = 2 * rows * width * inner / _seconds(device, lambda: torch.mm(hidden, weight.T, out=product))
    source, target = (torch.ones(COPY_BYTES[device.type], dtype=torch.uint8, device=device) for _ in range(2))
    return Rates(flops, 2 * source.nbytes / _seconds(device, lambda: target.copy_(source)))


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """The shortest of several times, taken for long enough that a neighbour's short work cannot be in all of them."""
    times: list[float] = []
    while len(times) < 5 or sum(times) < MEASURED_SECONDS:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def peak_flops(device: torch.device, precision: str, tf32: bool) -> float | None:
    """The device's peak in FLOP/s, or None where it is not known."""
    if device.type != "cuda":
        return None
    kind = "tf32" if precision == "float32" and tf32 else precision
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS[kind].items() if part in name), None)
