"""Made-up rows, and a model, as the product's programs take them. Needs scripts/ on the path."""

import json
from pathlib import Path

from amberline.core.manifests import write_manifest
from amberline.data.tokens import PAIRS, SEQUENCES, token_files, write_tokens


def split(settings: dict) -> dict[str, str]:
    """Settings as the programs take them: what determines the weights, and the rest."""
    kept = {name: settings[name] for name in ("checkpoints", "evaluation", "monitors")}
    rest = {name: value for name, value in settings.items() if name not in kept}
    tracking = {"wandb_project": None, "wandb_mode": "offline"}
    return {
        "settings": json.dumps(rest),
        "runtime": json.dumps({"training": kept, "tracking": tracking, "exports": ["last"], "stale": "retrain"}),
    }


def write_conversations(rows: list[dict], folder: Path) -> None:
    with write_tokens(folder, SEQUENCES) as writer:
        for number, row in enumerate(rows):
            writer.write({"id": str(number), **row, "length": len(row["input_ids"])})
    write_manifest_of_tokens(folder)


def write_pairs(rows: list[dict], folder: Path) -> None:
    with write_tokens(folder, PAIRS) as writer:
        for number, row in enumerate(rows):
            prompt, length = row["prompt"], 0
            columns = {"id": str(number), "prompt_length": len(prompt)}
            for side in ("chosen", "rejected"):
                ids = prompt + row[side]
                columns |= {f"{side}_input_ids": ids, f"{side}_labels": [-100] * len(prompt) + row[side]}
                length += len(ids)
            writer.write({**columns, "length": length})
    write_manifest_of_tokens(folder)


def write_manifest_of_model(folder: Path) -> None:
    write_manifest(folder, kind="model", files=list(folder.iterdir()), inputs={}, settings={}, facts={})


def write_manifest_of_tokens(folder: Path) -> None:
    write_manifest(folder, kind="tokens", files=token_files(folder), inputs={}, settings={}, facts={})
