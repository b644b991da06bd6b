"""Supervised finetuning: Amberline against FastChat's train.py and TRL, on the same rows, steps and threads.

    python benchmarks/sft_throughput.py

All train the same 19.5M Llama in float32 with AdamW; what is compared is loss-bearing tokens a second. Peers live in
environments of their own, which are made on the first run. Losses must agree, or the work was not the same.
"""

import sys
from pathlib import Path
from typing import Annotated

import contest
import typer
import workload

# Conversations: the published number for FastChat, and the fastest of 1, 2 and 4 on two cores for TRL.
MICRO_BATCHES = {"fastchat": 2, "trl": 1}


def main(
    conversations: Annotated[int, typer.Option(help="rows to train on, once")] = 128,
    batch: Annotated[int, typer.Option(help="rows in an optimizer step")] = 32,
    repeats: Annotated[int, typer.Option(help="runs of each contestant, in turn")] = 3,
    threads: Annotated[int, typer.Option(help="threads of each")] = 2,
    micro_batch_tokens: Annotated[int, typer.Option(help="Amberline's micro-batches")] = 3072,
    environments: Annotated[Path, typer.Option(help="where the peers' environments are, or are made")] = contest.ROOT,
    name: Annotated[str, typer.Option(help="results go to benchmarks/results/NAME.json")] = "sft_throughput",
) -> None:
    """Run the contest and write down what came of it."""
    fastchat, trl = (contest.environment(peer, environments.resolve()) for peer in ("fastchat", "trl"))
    rows = workload.conversations(conversations)
    ours = [sys.executable, contest.ROOT / "benchmarks/amberline_training.py", "sft"]
    theirs = [fastchat, contest.PEERS / "fastchat_sft.py", "--micro-batch", MICRO_BATCHES["fastchat"]]
    modes = [trl, contest.PEERS / "trl_sft.py", "--micro-batch", MICRO_BATCHES["trl"], "--mode"]
    contest.hold(
        name,
        rows,
        amount=sum(sum(label != -100 for label in row["labels"][1:]) for row in rows),
        contestants={
            "amberline": [*ours, "--micro-batch-tokens", micro_batch_tokens],
            "fastchat, published": [*theirs, "--checkpointing"],
            "fastchat, no checkpointing": theirs,
            "trl plain": [*modes, "plain"],
            "trl packing": [*modes, "packing"],
            "trl padding-free": [*modes, "padding_free"],
        },
        settings={
            "conversations": conversations,
            "batch": batch,
            "repeats": repeats,
            "threads": threads,
            "micro_batch_tokens": micro_batch_tokens,
            "micro_batches": MICRO_BATCHES,
        },
        lengths={
            "tokens": workload.statistics([len(row["input_ids"]) for row in rows]),
            "targets": workload.statistics([sum(label != -100 for label in row["labels"]) for row in rows]),
        },
        another_order=["trl packing"],
    )


if __name__ == "__main__":
    typer.run(main)
