"""What a GPU waits for in a step: torch's profiler over two of them."""

from typing import Any

from gpu_steps import Bench, Steps
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

STEPS = 2
# What makes the processor wait for the GPU: an event of CUDA's runtime, or an operation that reads a value.
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
READ = "aten::_local_scalar_dense"


def profiled(bench: Bench, taken: Steps) -> dict[str, Any]:
    """Part of the time in which no kernel runs, waits and reads in a step, and the kernels that take longest."""
    taken.step()
    bench.wait()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.cuda else [])]
    with profile(activities=activities) as profiler:
        seconds = bench.seconds(lambda: [taken.step() for _ in range(STEPS)])
    events = profiler.events()
    kernels = [event for event in events if event.device_type == DeviceType.CUDA]
    spans = sorted((event.time_range.start, event.time_range.end) for event in kernels)
    return {
        "step_seconds": seconds / STEPS,
        "idle_share": 1 - covered(spans) / (spans[-1][1] - spans[0][0]) if spans else None,
        # Of these, one is the benchmark's own, which waits for the end.
        "waits_a_step": sum(event.name in WAITS for event in events) / STEPS,
        "reads_a_step": sum(event.name == READ for event in events) / STEPS,
        "longest_kernels": longest(kernels or list(events)),
    }


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals, which are sorted by their starts."""
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def longest(events: list[Any]) -> list[dict[str, Any]]:
    times: dict[str, float] = {}
    for event in events:
        times[event.name] = times.get(event.name, 0) + event.time_range.elapsed_us()
    ranked = sorted(times.items(), key=lambda each: -each[1])[:8]
    return [{"name": name[:80], "milliseconds_a_step": time / 1000 / STEPS} for name, time in ranked]
