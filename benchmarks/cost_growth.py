"""How the cost of an optimizer step grows with tokens, model size and processes, on the CPU.

    python benchmarks/cost_growth.py

One thread a process. A step's tokens are shared by the processes, in documents of one length. The exponents are those
of seconds = constant · tokens^a · parameters^b · processes^c, fitted to all points by least squares of the logarithms;
parameters are those in matrix products. Processor seconds are added over processes. Perfect sharing is c = -1 on the
clock and c = 0 of the processors.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import contest
import numpy as np
import torch
import torch.distributed as dist
import typer
from load_memory import RandomWeights
from torch.distributed.device_mesh import init_device_mesh
from transformers import LlamaConfig

from amberline.model import estimates
from amberline.model.forward import weighted_loss
from amberline.model.load import load_model
from amberline.model.packed import pack
from amberline.model.sizes import sizes_of
from amberline.model.weights import write_safetensors
from amberline.training.gradients import synchronise

LAYERS_AND_WIDTHS = ((2, 128), (4, 192), (6, 320))
TOKENS = (2048, 4096, 8192)  # of a step
PROCESSES = (1, 2)
VOCABULARY, LENGTH, BUDGET = 4096, 256, 2048


def configuration(layers: int, width: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        tie_word_embeddings=False,
    )


def on_a_rank(rank: int, ranks: int, folder: Path, results: Path, repeats: int) -> None:
    """Seconds on the clock and of this processor for a step, by tokens."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(results / "store"), ranks), rank=rank, world_size=ranks)
    model = load_model(folder, device="cpu", mesh=init_device_mesh("cpu", (ranks,)))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    found = {}
    for tokens in TOKENS:
        random = np.random.default_rng(rank)
        documents = [random.integers(0, VOCABULARY, LENGTH) for _ in range(min(BUDGET, tokens // ranks) // LENGTH)]
        batch = pack([(ids, ids, 1 / tokens) for ids in documents])
        micro_batches = tokens // ranks // (LENGTH * len(documents))
        times = []
        for _ in range(repeats + 1):
            dist.barrier()
            clock, processor = time.perf_counter(), time.process_time()
            for number in range(micro_batches):
                synchronise(model, last=number + 1 == micro_batches, keep_gathered=True)
                weighted_loss(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append((time.perf_counter() - clock, time.process_time() - processor))
        # The first step at each size warms up.
        found[tokens] = [statistics.median(each) for each in zip(*times[1:], strict=True)]
    (results / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def measure(layers: int, width: int, ranks: int, repeats: int) -> list[dict[str, Any]]:
    """A point for each number of tokens: the slowest process's seconds, and processor seconds together."""
    config = configuration(layers, width)
    with tempfile.TemporaryDirectory() as place:
        folder, results = Path(place) / "model", Path(place) / "results"
        folder.mkdir()
        results.mkdir()
        config.save_pretrained(folder)
        write_safetensors(RandomWeights(config), folder, torch.float32)
        torch.multiprocessing.spawn(on_a_rank, (ranks, folder, results, repeats), nprocs=ranks)
        by_rank = [json.loads((results / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(ranks)]
    points = []
    for tokens in TOKENS:
        seconds, processor = zip(*(each[str(tokens)] for each in by_rank), strict=True)
        sizes = sizes_of(config)
        flops = estimates.training_flops(sizes, [LENGTH] * (tokens // LENGTH))
        points.append(
            {
                "tokens": tokens,
                "parameters": sizes.in_products,
                "processes": ranks,
                "seconds": max(seconds),
                "cpu_seconds": sum(processor),
                "flops_per_cpu_second": flops / sum(processor),
            }
        )
    return points


def exponents(points: list[dict[str, Any]], cost: str) -> dict[str, float]:
    """The fitted exponents, and the largest factor by which a point is off the fit."""
    causes = ("tokens", "parameters", "processes")
    logs = np.log([[each[cause] for cause in causes] for each in points])
    measured = np.log([each[cost] for each in points])
    design = np.column_stack([logs, np.ones(len(points))])
    fitted = np.linalg.lstsq(design, measured, rcond=None)[0]
    off = float(np.exp(np.abs(design @ fitted - measured).max()))
    return {**dict(zip(causes, map(float, fitted), strict=False)), "largest_factor_off": off}


def main(repeats: Annotated[int, typer.Option(help="steps of each point, after the first")] = 3) -> None:
    """Measure, print and write down."""
    points = []
    for layers, width in LAYERS_AND_WIDTHS:
        for ranks in PROCESSES:
            points += measure(layers, width, ranks, repeats)
            print(json.dumps(points[-len(TOKENS) :]), flush=True)
    fits = {cost: exponents(points, cost) for cost in ("seconds", "cpu_seconds")}
    settings = {"document length": LENGTH, "vocabulary": VOCABULARY, "micro-batch tokens": BUDGET, "repeats": repeats}
    contest.write_result(
        "cost_growth",
        {
            "machine": contest.machine(),
            "torch": torch.__version__,
            "settings": settings,
            "exponents": fits,
            "points": points,
        },
    )
    print(json.dumps(fits, indent=1))


if __name__ == "__main__":
    typer.run(main)
