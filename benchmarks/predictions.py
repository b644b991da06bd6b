"""Peak memory and step time of training programs on the CPU against what they say at their start that these will be.

    python benchmarks/predictions.py

The contests' rows and settings, on fewer rows, at several micro-batch budgets and checkpointing levels; their model,
and a wider and deeper one.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import contest
import typer
import workload

TRAINING = contest.ROOT / "benchmarks/amberline_training.py"
MODELS = {"19.5M": {}, "51.7M": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6}}
# (program, model, micro-batch tokens, checkpointing)
SHAPES = (
    *(("sft", "19.5M", tokens, level) for tokens in (2048, 4096) for level in ("none", "full")),
    ("sft", "51.7M", 2048, "none"),
    ("sft", "51.7M", 4096, "selective"),
    ("dpo", "19.5M", 2048, "none"),
    ("dpo", "19.5M", 4096, "none"),
)


def main(
    threads: Annotated[int, typer.Option(help="threads of each")] = 2,
    repeats: Annotated[int, typer.Option(help="runs of each")] = 3,
) -> None:
    """Measure, print and write down."""
    rows = {"sft": workload.conversations(24), "dpo": workload.pairs(96)}
    # Three steps: the first warms up, and the optimizer's moments are there from the second on.
    batches = {"sft": 8, "dpo": 32}
    with tempfile.TemporaryDirectory(prefix="amberline-benchmark-") as place:
        work = Path(place)
        parameters = {name: workload.write_model(work / name, **shape) for name, shape in MODELS.items()}
        for program, each in rows.items():
            workload.write_rows(work / f"{program}.jsonl", each)
        commands = {
            f"{program}, {model}, {tokens} tokens, checkpointing {level}": [
                *(sys.executable, TRAINING, program, "--rows", work / f"{program}.jsonl", "--model", work / model),
                *("--batch", batches[program], "--micro-batch-tokens", tokens, "--checkpointing", level),
            ]
            for program, model, tokens, level in SHAPES
        }
        *_, reports = contest.take_turns(commands, repeats, threads, work)
    summary = {}
    for name, runs in reports.items():
        peak = max(run["peak_bytes"] for run in runs)
        # Each run measures what the machine reaches, so each prediction is for its own run.
        of_step = statistics.median(run["predicted_step_seconds"] / run["step_seconds"] for run in runs)
        summary[name] = {
            "peak_bytes": peak,
            "predicted_bytes": runs[0]["predicted_bytes"],
            "predicted_of_peak": runs[0]["predicted_bytes"] / peak,
            "step_seconds": statistics.median(run["step_seconds"] for run in runs),
            "predicted_step_seconds": statistics.median(run["predicted_step_seconds"] for run in runs),
            "predicted_of_step": of_step,
        }
    settings = {"conversations": len(rows["sft"]), "pairs": len(rows["dpo"]), "threads": threads, "repeats": repeats}
    result = {"machine": contest.machine(), "parameters": parameters, "settings": settings}
    contest.write_result("predictions", result | {"summary": summary, "reports": reports})
    for name, each in summary.items():
        memory, time = each["predicted_of_peak"], each["predicted_of_step"]
        print(f"{name}: predicted {memory:.2f} of the peak and {time:.2f} of the time")


if __name__ == "__main__":
    typer.run(main)
