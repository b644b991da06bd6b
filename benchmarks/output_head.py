"""Loss and gradients from hidden states: plain torch, torch's linear_cross_entropy, and ours, on the CPU.

    python benchmarks/output_head.py

Processor time of forward and backward pass, alternating; the largest difference of the gradients from plain torch's.
"torch's products" is ours without oneDNN (amberline/model/products.py).
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import contest
import torch
import torch.nn.functional as F
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from amberline.model import logps, products

TORCH_PRODUCTS = ", torch's products"


def main(
    tokens: Annotated[int, typer.Option(help="targets")] = 2048,
    width: Annotated[int, typer.Option(help="of the hidden states")] = 256,
    vocabulary: Annotated[int, typer.Option(help="entries")] = 32_000,
    repeats: Annotated[int, typer.Option(help="runs of each, in turn")] = 3,
    threads: Annotated[int, typer.Option(help="threads")] = 2,
) -> None:
    """Measure, print and write down."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = (torch.randn(vocabulary, width) * 0.02).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,))
    weights = torch.full((tokens,), 1 / tokens, dtype=torch.float64)
    ours: dict[str, Callable[[], torch.Tensor]] = {
        "ours, weighted loss": lambda: logps.weighted_loss(hidden, weight, targets, weights),
        "ours, log-probabilities": lambda: -logps.log_probabilities(hidden, weight, targets).mean(),
    }
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "plain torch": lambda: F.cross_entropy(hidden @ weight.T, targets),
        **ours,
        **{name + TORCH_PRODUCTS: way for name, way in ours.items()},
    }
    if hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions()
        ways["torch, mean"] = lambda: F.linear_cross_entropy(hidden, weight, targets, options=options)
        ways["torch, a loss each token"] = lambda: weights.dot(
            F.linear_cross_entropy(hidden, weight, targets, reduction="none", options=options).double()
        )
    found: dict[str, list[tuple[float, float, torch.Tensor]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            hidden.grad = weight.grad = None
            start = time.process_time()
            with patch.object(products, "_has_onednn", lambda name=name: not name.endswith(TORCH_PRODUCTS)):
                loss = way()
                loss.backward()
            found[name].append((time.process_time() - start, loss.item(), weight.grad.clone()))
    plain = found["plain torch"][0]
    result = {
        name: {
            "cpu_seconds": statistics.median(run[0] for run in runs),
            "loss_apart": abs(runs[0][1] - plain[1]),
            "gradient_apart": float((runs[0][2] - plain[2]).abs().max() / plain[2].abs().max()),
        }
        for name, runs in found.items()
    }
    settings = {"tokens": tokens, "width": width, "vocabulary": vocabulary, "repeats": repeats, "threads": threads}
    contest.write_result(
        "output_head",
        {"machine": contest.machine(), "torch": torch.__version__, "settings": settings, "summary": result},
    )
    for name, each in result.items():
        print(f"{name}: {each['cpu_seconds']:.2f} s, gradient apart {each['gradient_apart']:.1e}")


if __name__ == "__main__":
    typer.run(main)
