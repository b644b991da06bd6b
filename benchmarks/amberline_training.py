"""Amberline's own programs on the benchmark's rows, timed as its peers are: the loop, and the reference pass before it.

Only the order of rows is laid down, so that all contestants take the same steps, and no checkpoint is written, because
the peers write none. Needs scripts/ and benchmarks/peers/ on the path.
"""

import argparse
import ctypes
import json
import statistics
import tempfile
from pathlib import Path

import torch
from token_folders import split, write_conversations, write_manifest_of_model, write_pairs

import score_reference
import train
from amberline.recipe.check import check_recipe
from amberline.recipe.files import PUBLISHED, read_recipe
from amberline.training import stage
from amberline.training.curve import read_metrics
from report import Report

RECIPE = check_recipe(read_recipe([PUBLISHED]), files=False)
COMMON = {"epochs": 1, "precision": "float32", "tf32": False, "evaluation": {"every_examples": 0, "examples": 0}}


def average_step(tokens: list[int], seconds: list[float]) -> float:
    """Seconds of a step of the average size; the first one, which warms up, is left out where there are others."""
    first = min(1, len(seconds) - 1)
    return statistics.fmean(tokens) * sum(seconds[first:]) / sum(tokens[first:])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=("sft", "dpo"))
    for name in ("rows", "model", "output"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("threads", "batch", "micro-batch-tokens"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--checkpointing", choices=("none", "selective", "full"), default="none")
    options = parser.parse_args()
    rows = [json.loads(line) for line in Path(options.rows).read_text(encoding="utf-8").splitlines()]
    report = Report()

    plan = stage.plan_batches
    stage.plan_batches = lambda *sizes, **settings: plan(*sizes, **settings, orders=[range(len(rows))])
    facts: dict[str, object] = {"torch": torch.__version__}

    def noted(name, predict):
        def predicted(*arguments, **named):
            # What the reference pass left in the heap is not there where it is a program of its own.
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            facts[name] = predict(*arguments, **named)
            return facts[name]

        return predicted

    stage.expected_peak = noted("predicted_bytes", stage.expected_peak)
    stage.expected_step_seconds = noted("predicted_step_seconds", stage.expected_step_seconds)
    stage.train = report.timed(stage.train)
    stage.Checkpoints.save = lambda *_: None
    score_reference.score = report.timed(score_reference.score)
    hardware = {
        "device": "cpu",
        "nodes": 1,
        "ranks_per_node": 1,
        "cpus_per_rank": options.threads,
        "memory_gb": 8,
        "hours": 1,
        "micro_batch_tokens": options.micro_batch_tokens,
        "attention": "auto",
        "activation_checkpointing": options.checkpointing,
        "reshard_after_forward": False,
        "compile": False,
        "deterministic": False,
    }
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        model, tokens = work / "model", work / "tokens"
        model.mkdir()
        for file in Path(options.model).iterdir():
            (model / file.name).symlink_to(file.resolve())
        write_manifest_of_model(model)
        (write_conversations if options.stage == "sft" else write_pairs)(rows, tokens)
        common = {
            "model": model,
            "tokens": tokens,
            "hardware": json.dumps(hardware),
            "checkpoints": work / "checkpoints",
            "packages": "{}",
            "run": work / "run.json",
            "metrics": work / "metrics.jsonl",
        }
        published = next(name for name in RECIPE.trained if RECIPE.node(name).train == options.stage)
        settings = RECIPE.training(published).model_dump(mode="json") | COMMON
        if options.stage == "sft":
            settings |= {"global_batch": options.batch, "loss_normalization": "token_mean", "micro_batch_examples": 1}
            train.main(**common, **split(settings), objective="sft", name="sft")
        else:
            settings |= {"global_batch": options.batch}
            score_reference.main(
                model=model,
                tokens=tokens,
                precision="float32",
                hardware=json.dumps(hardware),
                reference=work / "reference",
                tf32=False,
            )
            train.main(**common, **split(settings), objective="dpo", name="dpo", reference=work / "reference")
        lines = [line for line in read_metrics(work / "metrics.jsonl") if "loss" in line]
        report.losses = [line["loss"] for line in lines]
        timings = read_metrics(next((work / "checkpoints").glob("*/timings.jsonl")))
        facts["step_seconds"] = average_step([line["tokens"] for line in lines], [line["seconds"] for line in timings])
    report.write(options.output, **facts)


if __name__ == "__main__":
    main()
