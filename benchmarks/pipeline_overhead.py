"""How long Snakemake takes to find out that nothing is to be done, and to plan the demo with 200 variants of DPO.

Needs the finished demo: run `make demo` first.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
import yaml

ROOT = Path(__file__).resolve().parents[1]
MODELS = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))["models"]
MODEL = next(name for name, node in MODELS.items() if node.get("train") == "dpo")
SNAKEMAKE = [Path(sys.executable).with_name("snakemake"), "-n", "--configfile", "demo/config.yaml"]


def seconds(*more: str) -> tuple[float, str]:
    """Wall time of a dry run, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run([*SNAKEMAKE, *more], cwd=ROOT, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, done.stdout + done.stderr


def main(
    repeats: Annotated[int, typer.Option(help="times that each is measured")] = 5,
    variants: Annotated[int, typer.Option(help="variants of DPO to plan")] = 200,
    output: Annotated[Path, typer.Option(help="JSON file to write")] = ROOT
    / "benchmarks/results/pipeline_overhead.json",
) -> None:
    """Measure the pipeline's own overhead."""
    nothing, planned = [], []
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as overlay:
        betas = [{"models": {MODEL: {"beta": 0.001 * (number + 1)}}} for number in range(variants)]
        json.dump({"variants": {f"beta-{number}": beta for number, beta in enumerate(betas)}}, overlay)
        overlay.flush()
        for _ in range(repeats):
            taken, printed = seconds()
            if "Nothing to be done" not in printed:
                sys.exit("The demo is not finished, so there is something to be done: run `make demo` first.")
            nothing.append(taken)
            taken, printed = seconds(overlay.name)
            if ["train", str(variants)] not in [line.split() for line in printed.splitlines()]:
                sys.exit(f"Snakemake did not plan {variants} trainings:\n{printed[-2000:]}")
            planned.append(taken)
    report = {
        "benchmark": "pipeline_overhead",
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "settings": {"repeats": repeats, "variants": variants, "load_before": os.getloadavg()[0]},
        "seconds": {
            "a dry run with nothing to be done": {"median": statistics.median(nothing), "all": nothing},
            f"a dry run with {variants} variants": {"median": statistics.median(planned), "all": planned},
        },
    }
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, figures in report["seconds"].items():
        print(f"{name}: {figures['median']:.1f} s (median of {repeats})")


if __name__ == "__main__":
    typer.run(main)
