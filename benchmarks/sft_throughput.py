"""Supervised finetuning: Amberline against FastChat's train.py and TRL, on the same rows, steps and threads.

    python benchmarks/sft_throughput.py

All train the same 19.5M Llama in float32 with AdamW; what is compared is loss-bearing tokens a second. Peers live in
environments of their own, which are made on the first run. Losses must agree, or the work was not the same.
"""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import contest
import typer
import workload

MICRO_BATCHES = {"fastchat": 2, "trl": 4}  # 2 is the published one; TRL pads to the longest of a micro-batch
TOLERANCE = 1e-4  # of the mean loss; packing reorders the rows, so that its steps are others
ANOTHER_ORDER = {"trl packing"}


def main(
    conversations: Annotated[int, typer.Option(help="rows to train on, once")] = 128,
    batch: Annotated[int, typer.Option(help="rows in an optimizer step")] = 32,
    repeats: Annotated[int, typer.Option(help="runs of each contestant, in turn")] = 3,
    threads: Annotated[int, typer.Option(help="threads of each")] = 2,
    micro_batch_tokens: Annotated[int, typer.Option(help="Amberline's micro-batches")] = 4096,
    environments: Annotated[Path, typer.Option(help="where the peers' environments are, or are made")] = contest.ROOT,
    name: Annotated[str, typer.Option(help="results go to benchmarks/results/NAME.json")] = "sft_throughput",
) -> None:
    """Run the contest and write down what came of it."""
    fastchat, trl = (contest.environment(peer, environments.resolve()) for peer in ("fastchat", "trl"))
    with tempfile.TemporaryDirectory(prefix="amberline-benchmark-") as place:
        work = Path(place)
        parameters = workload.write_model(work / "model")
        rows = workload.conversations(conversations)
        workload.write_rows(work / "rows.jsonl", rows)
        common = ["--rows", work / "rows.jsonl", "--model", work / "model", "--batch", batch]
        theirs = [contest.PEERS / "fastchat_sft.py", *common, "--micro-batch", MICRO_BATCHES["fastchat"]]
        modes = [contest.PEERS / "trl_sft.py", *common, "--micro-batch", MICRO_BATCHES["trl"], "--mode"]
        ours = [sys.executable, contest.ROOT / "benchmarks/amberline_training.py", "sft", *common]
        reports = contest.contest(
            {
                "amberline": [*ours, "--micro-batch-tokens", micro_batch_tokens],
                "fastchat, published": [fastchat, *theirs, "--checkpointing"],
                "fastchat, no checkpointing": [fastchat, *theirs],
                "trl plain": [trl, *modes, "plain"],
                "trl packing": [trl, *modes, "packing"],
                "trl padding-free": [trl, *modes, "padding_free"],
            },
            repeats,
            threads,
            work,
        )
    loss_tokens = sum(sum(label != -100 for label in row["labels"][1:]) for row in rows)
    summary = contest.summarise(reports, loss_tokens)
    apart = {
        name: abs(each["loss"] - summary["amberline"]["loss"])
        for name, each in summary.items()
        if name not in ANOTHER_ORDER
    }
    contest.write_result(
        name,
        {
            "machine": contest.machine(),
            "versions": {each: run[0] for each, run in _versions(reports).items()},
            "settings": {
                "parameters": parameters,
                "conversations": conversations,
                "batch": batch,
                "repeats": repeats,
                "threads": threads,
                "micro_batch_tokens": micro_batch_tokens,
                "micro_batches": MICRO_BATCHES,
            },
            "lengths": workload.statistics([len(row["input_ids"]) for row in rows]),
            "loss_tokens": loss_tokens,
            "summary": summary,
            "losses_agree": max(apart.values()) <= TOLERANCE,
            "reports": reports,
        },
    )
    if max(apart.values()) > TOLERANCE:
        sys.exit(f"the mean losses differ by up to {max(apart.values()):.2g}: the work was not the same")


def _versions(reports):
    kept = ("torch", "transformers", "trl")
    return {name: [{key: run[key] for key in kept if key in run} for run in runs] for name, runs in reports.items()}


if __name__ == "__main__":
    typer.run(main)
