"""Direct preference optimisation: Amberline against TRL, on the same pairs, steps and threads, reference pass included.

    python benchmarks/preference_throughput.py

All train the same 19.5M Llama in float32 with RMSprop; what is compared is pairs a second over one epoch.
"""

import sys
from pathlib import Path
from typing import Annotated

import contest
import typer
import workload

# Pairs of TRL's micro-batches, padded to the longest: its own default, and the fastest of 1 to 16 on two cores.
DEFAULT, FASTEST = 8, 1


def main(
    pairs: Annotated[int, typer.Option(help="pairs to train on, once")] = 192,
    batch: Annotated[int, typer.Option(help="pairs in an optimizer step")] = 32,
    repeats: Annotated[int, typer.Option(help="runs of each contestant, in turn")] = 3,
    threads: Annotated[int, typer.Option(help="threads of each")] = 2,
    micro_batch_tokens: Annotated[int, typer.Option(help="Amberline's micro-batches")] = 4096,
    environments: Annotated[Path, typer.Option(help="where the peer's environment is, or is made")] = contest.ROOT,
    name: Annotated[str, typer.Option(help="results go to benchmarks/results/NAME.json")] = "preference_throughput",
) -> None:
    """Run the contest and write down what came of it."""
    trl = contest.environment("trl", environments.resolve())
    rows = workload.pairs(pairs)
    ours = [sys.executable, contest.ROOT / "benchmarks/amberline_training.py", "dpo"]
    theirs = [trl, contest.PEERS / "trl_dpo.py"]
    contest.hold(
        name,
        rows,
        amount=pairs,
        contestants={
            "amberline": [*ours, "--micro-batch-tokens", micro_batch_tokens],
            f"trl plain, {DEFAULT} pairs": [*theirs, "--micro-batch", DEFAULT, "--mode", "plain"],
            f"trl plain, {FASTEST} pair": [*theirs, "--micro-batch", FASTEST, "--mode", "plain"],
            f"trl precompute, {FASTEST} pair": [*theirs, "--micro-batch", FASTEST, "--mode", "precompute"],
            f"trl precompute, {DEFAULT} pairs": [*theirs, "--micro-batch", DEFAULT, "--mode", "precompute"],
        },
        settings={
            "pairs": pairs,
            "batch": batch,
            "repeats": repeats,
            "threads": threads,
            "micro_batch_tokens": micro_batch_tokens,
        },
        lengths={part: workload.statistics([len(row[part]) for row in rows]) for part in rows[0]},
    )


if __name__ == "__main__":
    typer.run(main)
