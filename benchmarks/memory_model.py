"""Peak memory of training programs on the CPU against what they say at their start that it will be.

    python benchmarks/memory_model.py

The contests' model, rows and settings, on fewer rows, at several micro-batch budgets and checkpointing levels.
"""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import contest
import typer
import workload

TRAINING = contest.ROOT / "benchmarks/amberline_training.py"
# (program, micro-batch tokens, checkpointing)
SHAPES = (
    *(("sft", tokens, level) for tokens in (2048, 4096) for level in ("none", "full")),
    ("dpo", 2048, "none"),
    ("dpo", 4096, "none"),
)


def main(
    threads: Annotated[int, typer.Option(help="threads of each")] = 2,
    repeats: Annotated[int, typer.Option(help="runs of each")] = 1,
) -> None:
    """Measure, print and write down."""
    rows = {"sft": workload.conversations(16), "dpo": workload.pairs(64)}
    # Two steps and more: the optimizer's moments are there from the second on.
    batches = {"sft": 8, "dpo": 32}
    with tempfile.TemporaryDirectory(prefix="amberline-benchmark-") as place:
        work = Path(place)
        workload.write_model(work / "model")
        for program, each in rows.items():
            workload.write_rows(work / f"{program}.jsonl", each)
        commands = {
            f"{program}, {tokens} tokens, checkpointing {level}": [
                *(sys.executable, TRAINING, program, "--rows", work / f"{program}.jsonl", "--model", work / "model"),
                *("--batch", batches[program], "--micro-batch-tokens", tokens, "--checkpointing", level),
            ]
            for program, tokens, level in SHAPES
        }
        *_, reports = contest.take_turns(commands, repeats, threads, work)
    summary = {
        name: {
            "peak_bytes": max(run["peak_bytes"] for run in runs),
            "predicted_bytes": runs[0]["predicted_bytes"],
            "predicted_of_peak": runs[0]["predicted_bytes"] / max(run["peak_bytes"] for run in runs),
        }
        for name, runs in reports.items()
    }
    settings = {"conversations": len(rows["sft"]), "pairs": len(rows["dpo"]), "threads": threads, "repeats": repeats}
    contest.write_result(
        "memory_model", {"machine": contest.machine(), "settings": settings, "summary": summary, "reports": reports}
    )
    for name, each in summary.items():
        print(f"{name}: predicted {each['predicted_of_peak']:.2f} of the peak")


if __name__ == "__main__":
    typer.run(main)
