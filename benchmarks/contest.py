"""Contestants run in turn, each in a process of its own, several times over; what they report, and medians of it."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import workload

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
PEERS = ROOT / "benchmarks/peers"

TOLERANCE = 1e-4  # of the mean loss
VERSIONS = ("torch", "transformers", "trl")  # that a report may state
COMMON = ["torch==2.13.0", "accelerate==1.15.0", "sentencepiece", "protobuf", "numpy"]

# What each peer is installed with; the second list without what it asks for, which is for serving models.
PACKAGES = {
    "fastchat": (
        [*COMMON, "transformers==4.57.6", "psutil", "requests"],
        ["fschat==0.2.36"],
    ),
    "trl": ([*COMMON, "trl==1.16.0"], []),
}


def environment(peer: str, place: Path) -> Path:
    """The Python of a peer's environment in `place`, which is made if it is not there."""
    folder = place / f".venv-{peer}"
    python = folder / "bin/python"
    if not (folder / "complete").is_file():
        print(f"making an environment for {peer} in {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        packages, alone = PACKAGES[peer]
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
        if alone:
            subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *alone], check=True)
        (folder / "complete").touch()
    return python


def hold(
    name: str,
    rows: Sequence[Mapping[str, Sequence[int]]],
    amount: int,
    contestants: Mapping[str, Sequence[Any]],
    settings: Mapping[str, Any],
    lengths: Mapping[str, Any],
    another_order: Sequence[str] = (),
) -> None:
    """Have all contestants train on the same rows, and write results/NAME.json. `amount` is what is in the rows to do.

    `settings` has `batch`, `repeats` and `threads`, and whatever else the page of results should tell. Exits when the
    mean losses differ, but for those that take the rows in `another_order`, so that their steps are others.
    """
    with tempfile.TemporaryDirectory(prefix="amberline-benchmark-") as place:
        work = Path(place)
        parameters = workload.write_model(work / "model")
        workload.write_rows(work / "rows.jsonl", rows)
        common = ["--rows", work / "rows.jsonl", "--model", work / "model", "--batch", settings["batch"]]
        commands = {each: [*command, *common] for each, command in contestants.items()}
        # Written after every round: a contest takes an hour, and whoever ends it early keeps the rounds that were held.
        for reports in take_turns(commands, settings["repeats"], settings["threads"], work):
            held = {"parameters": parameters, **settings, "repeats": len(reports["amberline"])}
            result = outcome(reports, amount, another_order) | {"settings": held, "lengths": lengths}
            write_result(name, result)
    for who, each in result["summary"].items():
        print(
            f"{who}: {each['per_second']:.4g}/s, {each['peak_bytes'] / 1e9:.2f} GB, loss {each['loss']:.6f}; ours "
            f"{each['ours_faster_by']:.2f} times as fast ({each['ours_faster_by_cpu_time']:.2f} by processor time) "
            f"with {each['our_memory']:.2f} of the memory"
        )
    if not result["losses_agree"]:
        sys.exit(f"the mean losses differ by up to {result['losses_apart']:.2g}: the work was not the same")


def outcome(
    reports: Mapping[str, Sequence[Mapping[str, Any]]], amount: int, another_order: Sequence[str]
) -> dict[str, Any]:
    """What came of the rounds held so far."""
    summary = summarise(reports, amount)
    ours = summary["amberline"]["loss"]
    apart = max(abs(each["loss"] - ours) for who, each in summary.items() if who not in another_order)
    return {
        "machine": machine(),
        "versions": {
            who: {each: runs[0][each] for each in VERSIONS if each in runs[0]} for who, runs in reports.items()
        },
        "amount": amount,
        "summary": summary,
        "losses_apart": apart,
        "losses_agree": apart <= TOLERANCE,
        "reports": reports,
    }


def take_turns(
    contestants: Mapping[str, Sequence[Any]], repeats: int, threads: int, work: Path
) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Run every command `repeats` times, in turn, each with `--output FILE` added; after each round, all reports by
    contestant.
    """
    threads_only = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    path = {"PYTHONPATH": f"{ROOT / 'scripts'}:{PEERS}"}
    # Threads that wait for each other sleep. If they spun, a busy neighbour on the machine would cost a contestant with
    # many small operations several times its own share.
    sleeping = {"OMP_WAIT_POLICY": "PASSIVE"}
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environ = os.environ | threads_only | sleeping | path | offline
    reports: dict[str, list[Any]] = {name: [] for name in contestants}
    names = list(contestants)
    for repeat in range(repeats):
        # Each round begins with another one, so that none is always the first on a warm or a tired machine.
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            output = work / f"{name}-{repeat}.json"
            command = [*map(str, contestants[name]), "--output", str(output), "--threads", str(threads)]
            done = subprocess.run(command, check=False, env=environ, cwd=work, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{name} failed:\n{done.stderr[-4000:]}")
            report = json.loads(output.read_text(encoding="utf-8"))
            reports[name].append(report)
            print(f"{name}: {report['seconds']:.1f} s, {report['peak_bytes'] / 1e9:.2f} GB", flush=True)
        yield reports


def summarise(reports: Mapping[str, Sequence[Mapping[str, Any]]], work: int, ours: str = "amberline") -> dict[str, Any]:
    """Medians for each contestant, with the ratio of ours to it, paired by round; `work` is what each got done."""
    summary = {}
    for name, runs in reports.items():
        ratios = {
            measure: [theirs[measure] / mine[measure] for theirs, mine in zip(runs, reports[ours], strict=True)]
            for measure in ("seconds", "cpu_seconds", "peak_bytes")
        }
        summary[name] = {
            "per_second": statistics.median(work / run["seconds"] for run in runs),
            "per_cpu_second": statistics.median(work / run["cpu_seconds"] for run in runs),
            "peak_bytes": statistics.median(run["peak_bytes"] for run in runs),
            "loss": statistics.fmean(runs[0]["losses"]),
            "ours_faster_by": statistics.median(ratios["seconds"]),
            "ours_faster_by_cpu_time": statistics.median(ratios["cpu_seconds"]),
            "our_memory": 1 / statistics.median(ratios["peak_bytes"]),
        }
    return summary


def machine() -> dict[str, Any]:
    """What it ran on."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def write_result(name: str, result: Mapping[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
