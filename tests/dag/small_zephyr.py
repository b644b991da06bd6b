"""Raw files for a small Zephyr: Parquet of the published shapes, with the demo's made-up conversations and answers."""

import random
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
RECIPES = [ROOT / "recipes/zephyr.yaml", Path(__file__).with_suffix(".yaml")]
sys.path.insert(0, str(ROOT / "demo"))

import make_raw  # noqa: E402  (the demo's own program)

MESSAGES = pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))
CHAT = pa.schema([("prompt", pa.string()), ("prompt_id", pa.string()), ("messages", MESSAGES)])
PREFERENCES = pa.schema(
    [
        ("prompt", pa.string()),
        ("prompt_id", pa.string()),
        ("chosen", MESSAGES),
        ("rejected", MESSAGES),
        ("score_chosen", pa.float64()),
        ("score_rejected", pa.float64()),
    ]
)


def write_raw(folder: Path) -> None:
    """The four files that small_zephyr.yaml names."""
    draw = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("ultrachat_train", 90), ("ultrachat_test", 30)):
        _write(folder / f"{name}.parquet", [_chat(draw, f"{name}-{number}") for number in range(count)], CHAT)
    for name, count, chores in (
        ("ultrafeedback_train", 64, make_raw.TRAIN_CHORES),
        ("ultrafeedback_test", 16, make_raw.TEST_CHORES),
    ):
        rows = [_preference(draw, f"{name}-{number}", chores) for number in range(count)]
        _write(folder / f"{name}.parquet", rows, PREFERENCES)


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def _chat(draw: random.Random, name: str) -> dict[str, Any]:
    """A conversation of one to three rounds, every fifth under a system prompt."""
    pairs = make_raw.rounds(draw, draw.choice([1, 2, 3]))
    system = [_message("system", "You answer in short sentences.")] if draw.random() < 0.2 else []
    return {
        "prompt": pairs[0][0],
        "prompt_id": name,
        "messages": [
            *system,
            *(message for ask, answer in pairs for message in (_message("user", ask), _message("assistant", answer))),
        ],
    }


def _preference(draw: random.Random, name: str, chores: list[tuple[str, str]]) -> dict[str, Any]:
    """A question with a careful answer, which is preferred, and a careless one; some behind an earlier round."""
    chore, thing = draw.choice(chores)
    ask = draw.choice(make_raw.ASKS).format(chore=chore, when=draw.choice(make_raw.WHEN))
    before = [_message("user", "Hello!"), _message("assistant", "Hello.")] if draw.random() < 0.2 else []
    prompt = [*before, _message("user", ask)]
    answers = [draw.choice(kind).format(thing=thing) for kind in (make_raw.CAREFUL, make_raw.CARELESS)]
    return {
        "prompt": ask,
        "prompt_id": name,
        "chosen": [*prompt, _message("assistant", answers[0])],
        "rejected": [*prompt, _message("assistant", answers[1])],
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    }


def _message(role: str, content: str) -> dict[str, str]:
    return {"content": content, "role": role}
