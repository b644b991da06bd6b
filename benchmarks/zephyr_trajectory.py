"""Zephyr against TRL: whether both read the same tokens from the same rows, and come to the same loss at every step.

    python benchmarks/zephyr_trajectory.py

Runs recipes/zephyr.yaml at the small scale of its test, has TRL's trainers read the same rows in the same order,
starting from the same weights, and writes what they say to tests/golden/zephyr_trajectory.json, which the test holds.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import contest
import pyarrow.parquet as pq
import typer

sys.path += [str(contest.ROOT / "scripts"), str(contest.ROOT / "tests")]

from amberline.batches.plan import shuffle
from amberline.data.tokens import open_tokens
from amberline.recipe.check import check_recipe
from amberline.recipe.files import read_recipe
from dag.small_zephyr import RECIPES, write_raw

GOLDEN = contest.ROOT / "tests/golden/zephyr_trajectory.json"
MADE = "results/zephyr"
MODELS = {"sft": "zephyr-sft", "dpo": "zephyr"}
STARTS = {"sft": "base", "dpo": "zephyr-sft"}
TOKENS = {"sft": ["input_ids"], "dpo": ["prompt_ids", "chosen_ids", "rejected_ids"]}  # as TRL calls them


def conversations(raw: Path) -> dict[str, dict[str, Any]]:
    """Rows of both files by the id that their chunks have."""
    rows = [row for name in ("train", "test") for row in _rows(raw / f"ultrachat_{name}.parquet")]
    return {f"{row['prompt_id']}_0": {"messages": row["messages"]} for row in rows}


def preferences(raw: Path) -> dict[str, dict[str, Any]]:
    """Rows by the id that their pairs have: number of the prompt, and number of the pair among the prompt's."""
    found: dict[str, dict[str, Any]] = {}
    prompts: dict[str, list[int]] = {}
    for row in _rows(raw / "ultrafeedback_train.parquet"):
        count = prompts.setdefault(json.dumps(row["chosen"][:-1]), [len(prompts), 0])
        found[f"{count[0]}-{count[1]}"] = {"chosen": row["chosen"], "rejected": row["rejected"]}
        count[1] += 1
    return found


def _rows(file: Path) -> list[dict[str, Any]]:
    return pq.read_table(file).to_pylist()


def in_order(folder: Path, seed: int) -> Iterator[str]:
    """Ids of a token folder's rows in the order of the first epoch."""
    ids = open_tokens(folder)["id"]
    return (ids[number] for number in shuffle(len(ids), seed, 0).tolist())


def digest(rows: Sequence[Sequence[Sequence[int]]]) -> str:
    """Of all tokens in their order: of each row its sequences."""
    return sha256(json.dumps([[list(ids) for ids in row] for row in rows]).encode()).hexdigest()


def main(
    environments: Annotated[Path, typer.Option(help="where TRL's environment is, or is made")] = contest.ROOT,
) -> None:
    """Run both, and write TRL's figures."""
    trl = contest.environment("trl", environments.resolve())
    recipe = check_recipe(read_recipe(RECIPES), files=False)
    golden: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        write_raw(place / "raw")
        program = Path(sys.executable).with_name("snakemake")
        files = ["--configfile", *map(str, RECIPES)]
        subprocess.run(
            [program, "--directory", place, *files, "--cores", "2", "--quiet", "rules", "host", "--", "zephyr"],
            cwd=contest.ROOT,
            check=True,
        )
        folders = {"sft": "ultrachat-whole-????????", "dpo": "ultrafeedback-train-????????"}
        rows = {"sft": conversations(place / "raw"), "dpo": preferences(place / "raw")}
        for objective, model in MODELS.items():
            settings = recipe.training(model).model_dump()
            (tokens,) = (place / MADE / "tokens").glob(folders[objective])
            lines = [json.dumps(rows[objective][name]) for name in in_order(tokens, settings["seed"])]
            (place / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            batch = settings["global_batch"]
            subprocess.run(
                [
                    *(trl, contest.PEERS / "trl_trajectory.py", "--objective", objective, "--threads", "1"),
                    *("--rows", place / "rows.jsonl", "--output", place / "told.json"),
                    *("--model", place / MADE / "models" / STARTS[objective]),
                    *("--tokenizer", place / MADE / "models/zephyr-sft"),
                    *("--batch", str(batch), "--micro-batch", str(batch)),
                    *("--learning-rate", str(settings["learning_rate"])),
                    *("--warmup-ratio", str(settings["schedule"]["warmup_ratio"])),
                    *(["--beta", str(settings["beta"])] if objective == "dpo" else []),
                ],
                check=True,
            )
            told = json.loads((place / "told.json").read_text(encoding="utf-8"))
            read = [[row[column] for column in TOKENS[objective]] for row in told["tokens"]]
            golden[objective] = {"tokens_sha256": digest(read), "losses": told["losses"]}
            golden["versions"] = told["versions"]
            print(f"{objective}: {len(lines)} rows, {len(told['losses'])} steps, losses {told['losses']}")
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
