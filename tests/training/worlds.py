"""Small settings, models, tokens and pairs for trainings in tests, and the recipe's settings at their size."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from amberline.core.manifests import write_manifest
from amberline.data.tokens import LOGPS, PAIRS, SEQUENCES, write_tokens
from amberline.recipe.check import check_recipe
from amberline.recipe.files import PUBLISHED, read_recipe
from golden_model import CONFIG

RECIPE = check_recipe(read_recipe([PUBLISHED]), files=False)
PUBLISHED_TRAININGS = {model: RECIPE.training(model).model_dump(mode="json") for model in RECIPE.trained}
HARDWARE = {
    "device": "cpu",
    "nodes": 1,
    "ranks_per_node": 1,
    "cpus_per_rank": 1,
    "memory_gb": 4,
    "hours": 1,
    "micro_batch_tokens": 512,
    "attention": "auto",
    "activation_checkpointing": "none",
    "reshard_after_forward": False,
    "compile": False,
    "deterministic": False,
}


def changed(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy of settings with some of them changed; nested ones by `part__key`."""
    settings = json.loads(json.dumps(base))
    for path, value in changes.items():
        part = settings
        *parents, key = path.split("__")
        for parent in parents:
            part = part[parent]
        part[key] = value
    return settings


CHAT = changed(
    PUBLISHED_TRAININGS["amberchat"],
    epochs=2,
    global_batch=8,
    learning_rate=1e-3,
    precision="float32",
    tf32=False,
    checkpoints__every_steps=3,
    checkpoints__keep=2,
    monitors__loss_spike=None,
)
PREFERRED = changed(
    PUBLISHED_TRAININGS["ambersafe-sft"],
    epochs=2,
    global_batch=8,
    learning_rate=1e-4,
    schedule__warmup_steps=4,
    checkpoints__every_steps=3,
    checkpoints__keep=2,
    evaluation__every_examples=0,
    evaluation__examples=0,
)
DPO = changed(
    PUBLISHED_TRAININGS["ambersafe"],
    epochs=2,
    global_batch=8,
    learning_rate=2e-4,
    schedule__warmup_steps=4,
    checkpoints__every_steps=3,
    checkpoints__keep=2,
    evaluation__every_examples=0,
    evaluation__examples=0,
)


def split(settings: dict[str, Any], stale: str = "ask", export: str = "last") -> dict[str, str]:
    """Settings as the programs take them: what determines the weights, and the rest."""
    kept = {name: value for name, value in settings.items() if name in {"checkpoints", "evaluation", "monitors"}}
    rest = {name: value for name, value in settings.items() if name not in kept}
    tracking = {"wandb_project": None, "wandb_mode": "offline"}
    return {
        "settings": json.dumps(rest),
        "runtime": json.dumps({"training": kept, "tracking": tracking, "exports": [export], "stale": stale}),
    }


@dataclass(frozen=True)
class World:
    """What the programs are given: a model, tokens, and the reference's log-probabilities."""

    model: Path
    conversations: Path
    responses: Path
    pairs: Path
    reference: Path

    def arguments(self, kind: str, folder: Path, settings: dict[str, Any], **hardware: Any) -> dict[str, Any]:
        """Arguments of a training that works in `folder`; its kind is chat, preferred or dpo."""
        name, objective, tokens = {
            "chat": ("amberchat", "sft", self.conversations),
            "preferred": ("sft", "sft", self.responses),
            "dpo": ("dpo", "dpo", self.pairs),
        }[kind]
        return {
            "name": name,
            "objective": objective,
            "model": self.model,
            "tokens": tokens,
            "reference": self.reference if kind == "dpo" else None,
            **split(settings),
            "packages": json.dumps({"torch": "0"}),
            "hardware": json.dumps(HARDWARE | hardware),
            "checkpoints": folder / "checkpoints",
            "run": folder / "run.json",
            "metrics": folder / "metrics.jsonl",
            "heldout": None,
            "heldout_reference": None,
        }


def write_sequences(folder: Path, rows: list[tuple[list[int], list[int]]], kind: str = "tokens") -> Path:
    """A token folder of (ids, labels), with its manifest."""
    with write_tokens(folder, SEQUENCES) as writer:
        for number, (ids, labels) in enumerate(rows):
            writer.write({"id": f"row-{number}", "input_ids": ids, "labels": labels, "length": len(ids)})
    return finished(folder, kind)


def write_pairs(folder: Path, rows: list[dict[str, list[int]]]) -> Path:
    """A token folder of pairs, with its manifest."""
    with write_tokens(folder, PAIRS) as writer:
        for number, row in enumerate(rows):
            length = len(row["chosen_input_ids"]) + len(row["rejected_input_ids"])
            prompt = sum(label == -100 for label in row["chosen_labels"])
            writer.write({"id": f"pair-{number}", "prompt_length": prompt, "length": length, **row})
    return finished(folder, "tokens")


def write_reference(folder: Path, model: Path, pairs: Path, logps: list[tuple[float, float]]) -> Path:
    """A token folder of log-probabilities, with the manifest that says of what."""
    with write_tokens(folder, LOGPS) as writer:
        for number, (chosen, rejected) in enumerate(logps):
            writer.write({"id": f"pair-{number}", "chosen_logp": chosen, "rejected_logp": rejected})
    return finished(folder, "reference", inputs={"model": model, "tokens": pairs}, settings={"precision": "float32"})


def finished(folder: Path, kind: str, inputs: dict[str, Path] | None = None, settings: Any = None) -> Path:
    """Give a folder its manifest."""
    files = [file for file in folder.iterdir() if file.is_file() and file.name != "manifest.json"]
    write_manifest(folder, kind=kind, files=files, inputs=inputs or {}, settings=settings or {}, facts={})
    return folder


def logp(model: nn.Module, ids: list[int], labels: list[int]) -> float:
    """Log-probability of the labelled tokens, by plain torch."""
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logps[place - 1, label]) for place, label in enumerate(labels) if place and label != -100)


def random_sequence(rng: np.random.Generator, longest: int) -> tuple[list[int], list[int]]:
    """Token ids, and labels that leave out the first third."""
    length = int(rng.integers(6, longest))
    ids = rng.integers(3, CONFIG["vocab_size"], length).tolist()
    return ids, [-100] * (length // 3) + ids[length // 3 :]
