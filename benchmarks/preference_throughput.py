"""Direct preference optimisation: Amberline against TRL, on the same pairs, steps and threads, reference pass included.

    python benchmarks/preference_throughput.py

All train the same 19.5M Llama in float32 with RMSprop; what is compared is pairs a second over one epoch.
"""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import contest
import typer
import workload

MICRO_BATCH = 8  # pairs; TRL pads to the longest of them
TOLERANCE = 1e-4


def main(
    pairs: Annotated[int, typer.Option(help="pairs to train on, once")] = 192,
    batch: Annotated[int, typer.Option(help="pairs in an optimizer step")] = 32,
    repeats: Annotated[int, typer.Option(help="runs of each contestant, in turn")] = 3,
    threads: Annotated[int, typer.Option(help="threads of each")] = 2,
    micro_batch_tokens: Annotated[int, typer.Option(help="Amberline's micro-batches")] = 2048,
    environments: Annotated[Path, typer.Option(help="where the peer's environment is, or is made")] = contest.ROOT,
    name: Annotated[str, typer.Option(help="results go to benchmarks/results/NAME.json")] = "preference_throughput",
) -> None:
    """Run the contest and write down what came of it."""
    trl = contest.environment("trl", environments.resolve())
    with tempfile.TemporaryDirectory(prefix="amberline-benchmark-") as place:
        work = Path(place)
        parameters = workload.write_model(work / "model")
        rows = workload.pairs(pairs)
        workload.write_rows(work / "rows.jsonl", rows)
        common = ["--rows", work / "rows.jsonl", "--model", work / "model", "--batch", batch]
        modes = [contest.PEERS / "trl_dpo.py", *common, "--micro-batch", MICRO_BATCH, "--mode"]
        ours = [sys.executable, contest.ROOT / "benchmarks/amberline_training.py", "dpo", *common]
        reports = contest.contest(
            {
                "amberline": [*ours, "--micro-batch-tokens", micro_batch_tokens],
                "trl plain": [trl, *modes, "plain"],
                "trl precompute": [trl, *modes, "precompute"],
            },
            repeats,
            threads,
            work,
        )
    summary = contest.summarise(reports, pairs)
    apart = max(abs(each["loss"] - summary["amberline"]["loss"]) for each in summary.values())
    contest.write_result(
        name,
        {
            "machine": contest.machine(),
            "versions": {name: {key: runs[0].get(key) for key in ("torch", "trl")} for name, runs in reports.items()},
            "settings": {
                "parameters": parameters,
                "pairs": pairs,
                "batch": batch,
                "repeats": repeats,
                "threads": threads,
                "micro_batch_tokens": micro_batch_tokens,
                "micro_batch": MICRO_BATCH,
            },
            "lengths": {part: workload.statistics([len(row[part]) for row in rows]) for part in rows[0]},
            "summary": summary,
            "losses_agree": apart <= TOLERANCE,
            "reports": reports,
        },
    )
    if apart > TOLERANCE:
        sys.exit(f"the mean losses differ by up to {apart:.2g}: the work was not the same")


if __name__ == "__main__":
    typer.run(main)
