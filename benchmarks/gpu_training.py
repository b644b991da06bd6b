"""Training speed of a 6.7B Llama of random weights on one GPU or several, against what the machine can do at most.

    python benchmarks/gpu_training.py --output gpu.json                      # one GPU
    torchrun --nproc-per-node 8 benchmarks/gpu_training.py --output gpu.json
    python benchmarks/gpu_training.py --check --output check.json            # the same code, small, on the CPU

Optimizer steps of AmberChat (packed conversations, bfloat16, AdamW) and of AmberSafe (32 pairs of DPO, RMSprop: float32
in TF32 as published, and bfloat16), in layouts that are likely to be the fastest first, then one technique less. The
card's memory is read before anything: the model has as many layers as fit, and a layout that cannot fit is never begun.
Each line says tokens a second, strict MFU (6 · parameters in matrix products, input embeddings excluded, plus causal
attention, over the peak), memory of tensors and memory taken of the card, and what was predicted: of the time, by two
ceilings that are measured in the same run, a large matrix product and a large copy. After the best ones, 20 steps of
the fastest layout are held against the same steps with plain settings: everything recomputed, nothing compiled, one
call of attention a document. No further layout begins after --minutes. Runs with torch 2.11 and transformers 5.17 as
well as the locked versions.
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import gpu_steps
import torch
import torch.distributed as dist
import transformers
import typer
from gpu_steps import Bench, Layout

AGREEMENT_STEPS = 20
# What is measured, the best first.
BEST = (
    ("chat", gpu_steps.BEST_CHAT),
    ("pairs", gpu_steps.PAIRS_LAYOUT),
    ("chat", gpu_steps.PLAIN_CHAT),
    ("pairs", replace(gpu_steps.PAIRS_LAYOUT, precision="bfloat16")),
)
REST = (
    ("chat", Layout(8192, "selective", compile=False)),
    ("pairs", replace(gpu_steps.PAIRS_LAYOUT, compile=False)),
    ("chat", Layout(16384, "selective", compile=True)),
    ("chat", Layout(16384, "full", compile=True)),
    ("chat", Layout(4096, "none", compile=False)),
    ("pairs", replace(gpu_steps.PAIRS_LAYOUT, compile=False, precision="bfloat16")),
    ("chat", Layout(4096, "full", compile=False)),
)


def fastest(found: list[tuple[Layout, dict[str, Any]]]) -> Layout | None:
    """The layout of the most tokens a second."""
    done = [each for each in found if "failed" not in each[1]]
    return max(done, key=lambda each: each[1]["tokens_per_second_per_gpu"])[0] if done else None


def show(kind: str, found: dict[str, Any], result: dict[str, Any], output: Path) -> None:
    """Print what was found, and write down all that has been so far."""
    if dist.get_rank() == 0:
        print(json.dumps({kind: {key: value for key, value in found.items() if key != "losses"}}), flush=True)
        partial = output.with_name(output.name + ".partial")
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        partial.replace(output)


def main(
    output: Annotated[Path, typer.Option(help="JSON file to write, after every measurement")],
    check: Annotated[bool, typer.Option(help="a small model on the CPU, through the same code")] = False,
    steps: Annotated[int, typer.Option(help="optimizer steps of each measurement, after the first")] = 3,
    micro_batches: Annotated[int, typer.Option(help="in each step")] = 2,
    minutes: Annotated[float, typer.Option(help="begin no further layout after this time")] = 6,
    scratch: Annotated[Path | None, typer.Option(help="folder for 13 GB of random weights")] = None,
) -> None:
    """Measure, print and write down."""
    began = time.monotonic()
    bench = Bench(check)
    if not check and not bench.cuda:
        sys.exit("there is no GPU here; --check runs a small model on the CPU")
    layers = bench.agreed(gpu_steps.most_layers(bench, gpu_steps.BEST_CHAT, "chat"))
    if not layers:
        sys.exit(f"{bench.name} has {bench.memory / 2**30:.0f} GiB, too few for {min(gpu_steps.DEPTHS)} layers")
    result: dict[str, Any] = {
        "machine": {"device": bench.name, "processes": bench.world, "memory_bytes": bench.memory},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "layers": layers,
        "ceilings": gpu_steps.told_ceilings(bench),
        "chat": [],
        "pairs": [],
    }
    show("machine", result["machine"] | {"layers": layers}, result, output)
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        folder = Path(bench.agreed(place))
        if dist.get_rank() == 0:
            gpu_steps.write_model(folder, gpu_steps.llama(bench.shape, layers))
        dist.barrier()

        chats: list[tuple[Layout, dict[str, Any]]] = []

        def measure_all(layouts: tuple[tuple[str, Layout], ...]) -> None:
            for kind, layout in layouts:
                if bench.agreed(time.monotonic() - began > 60 * minutes):
                    result["stopped"] = f"after {minutes} minutes"
                    return
                found = gpu_steps.measured(bench, folder, kind, layout, steps=steps, micro_batches=micro_batches)
                result[kind].append(found)
                chats.extend([(layout, found)] if kind == "chat" else [])
                show(kind, found, result, output)

        measure_all(BEST[:2] if check else BEST)
        best = bench.agreed(fastest(chats))
        if best and "stopped" not in result:
            result["agreement"] = gpu_steps.agreement(bench, folder, bench.lighter(best), AGREEMENT_STEPS)
            show("agreement", result["agreement"], result, output)
        measure_all(tuple((kind, layout) for kind, layout in REST if not (check and layout.compile)))
    dist.destroy_process_group()


if __name__ == "__main__":
    typer.run(main)
