"""What a GPU waits for in a step: torch's profiler over two of them."""

from typing import Any

from gpu_steps import Bench, Steps
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

STEPS = 2
# What makes the processor wait for the GPU: an event of CUDA's runtime, or an operation that reads a value.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
READ = "aten::_local_scalar_dense"
# Kinds of kernels by parts of their names, the first that fits.
KINDS = {
    "attention": ("flash", "fmha"),
    "matrix products": ("nvjet", "gemm", "cutlass"),
    "optimizer, norm, clipping": ("multi_tensor_apply", "foreach"),
    "compiled layers, between products": ("triton",),
    "copies": ("memcpy", "memset", "copy"),
}


def profiled(bench: Bench, taken: Steps) -> dict[str, Any]:
    """Part of the time in which no kernel runs, waits and reads in a step, and the kernels that take longest."""
    taken.step()
    bench.wait()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.cuda else [])]
    with profile(activities=activities) as profiler:
        seconds = bench.seconds(lambda: [taken.step() for _ in range(STEPS)])
    events = profiler.events()
    # What the optimizer's step spans on the GPU is an event, too, but no kernel.
    kernels = [e for e in events if e.device_type == DeviceType.CUDA and not e.name.startswith("Optimizer.")]
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    times = milliseconds(kernels or list(events))
    return {
        "step_seconds": seconds / STEPS,
        "idle_share": 1 - covered(spans) / (spans[-1][1] - spans[0][0]) if spans else None,
        # Of these, one is the benchmark's own, which waits for the end.
        "waits_a_step": sum(event.name in WAITS for event in events) / STEPS,
        "reads_a_step": sum(event.name == READ for event in events) / STEPS,
        "kinds": kinds(times),
        "longest_kernels": longest(times),
    }


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals, which are sorted by their starts."""
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def milliseconds(events: list[Any]) -> dict[str, float]:
    """Those of a step, by the event's name."""
    times: dict[str, float] = {}
    for event in events:
        times[event.name] = times.get(event.name, 0) + event.time_range.elapsed_us() / 1000 / STEPS
    return times


def kinds(times: dict[str, float]) -> dict[str, float]:
    """Milliseconds of a step by kind of kernel."""
    found = dict.fromkeys([*KINDS, "all else"], 0.0)
    for name, time in times.items():
        fitting = (kind for kind, parts in KINDS.items() if any(part in name.lower() for part in parts))
        found[next(fitting, "all else")] += time
    return found


def longest(times: dict[str, float]) -> list[dict[str, Any]]:
    ranked = sorted(times.items(), key=lambda each: -each[1])[:30]
    return [{"name": name[:80], "milliseconds_a_step": time} for name, time in ranked]
