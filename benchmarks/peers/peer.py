"""What the peers' programs share: options, rows, their order, and how the Trainer tells of its time and losses."""

import argparse
import json
from pathlib import Path

import torch
import transformers

from report import Report

# Settings of transformers' Trainer that are the same for all: one epoch, every loss logged, nothing saved.
ARGUMENTS = {
    "num_train_epochs": 1,
    "save_strategy": "no",
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}


def parser() -> argparse.ArgumentParser:
    """The options that every contestant is started with."""
    options = argparse.ArgumentParser()
    for name in ("rows", "model", "output"):
        options.add_argument(f"--{name}", required=True)
    for name in ("threads", "batch", "micro-batch"):
        options.add_argument(f"--{name}", type=int, required=True)
    return options


def layout(options: argparse.Namespace) -> dict:
    """The Trainer's settings that follow from the options."""
    return {
        "output_dir": f"{options.output}.folder",
        "per_device_train_batch_size": options.micro_batch,
        "gradient_accumulation_steps": options.batch // options.micro_batch,
    }


def read_rows(path: str) -> list[dict[str, list[int]]]:
    """Rows of token ids."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


class InOrder:
    """A Trainer that sees the rows in the order of the file, as every contestant does."""

    def _get_train_sampler(self, *_: object) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class Timed(transformers.TrainerCallback):
    """Reports the time of training and the loss of every step."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_train_begin(self, *_: object, **__: object) -> None:
        self.report.start()

    def on_train_end(self, *_: object, **__: object) -> None:
        self.report.stop()

    def on_log(self, _args, _state, _control, logs=None, **__: object) -> None:
        if "loss" in logs:
            self.report.losses.append(logs["loss"])
