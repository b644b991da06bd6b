"""The same rows in any format and container give the same mix, through the programs that would meet them."""

import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import acquire
import mix
import select_pairs
from amberline.core.manifests import verify
from amberline.data.streams import container, read_records
from amberline.formats.base import id_of_texts
from data.conftest import mix_settings

TEXTS = [(f"Question {n}, é\n漢?", f"Answer {n}.") for n in range(50)]


def as_messages(number: int) -> dict:
    question, answer = TEXTS[number]
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def as_published(number: int, key: str, speakers: tuple[str, str] = ("human", "gpt")) -> dict:
    turns = [{"from": speaker, "value": text} for speaker, text in zip(speakers, TEXTS[number], strict=True)]
    return {key: id_of_texts(*TEXTS[number]), "conversations": turns}


def as_alpaca(number: int) -> dict:
    return {"instruction": TEXTS[number][0], "input": "", "output": TEXTS[number][1]}


ROWS: dict[str, Callable[[int], dict]] = {
    "messages": as_messages,
    "alpaca": as_alpaca,
    "sharegpt": lambda number: as_published(number, "id"),
    "evol_instruct": lambda number: as_published(number, "idx", ("user", "assistant")),
}


def array(rows: list) -> bytes:
    return json.dumps(rows, indent=1).encode()


def lines(rows: list) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def parquet(rows: list) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), target, row_group_size=7)
    return target.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


CONTAINERS: dict[str, Callable[[list], bytes]] = {
    "JSON array": array,
    "JSON lines": lines,
    "JSON array, xz": lambda rows: lzma.compress(array(rows)),
    "JSON lines, xz": lambda rows: lzma.compress(lines(rows)),
    "JSON array, gzip": lambda rows: gzip.compress(array(rows)),
    "JSON lines, gzip": lambda rows: gzip.compress(lines(rows)),
    "JSON array, zstd": lambda rows: zstd(array(rows)),
    "JSON lines, zstd": lambda rows: zstd(lines(rows)),
    "Parquet": parquet,
}


def acquired(folder: Path, format_name: str, content: bytes) -> Path:
    original = folder / "mine"  # without an ending: content tells
    original.write_bytes(content)
    nothing = dict.fromkeys(("repository", "revision", "file", "files", "bytes", "sha256", "rows", "licence"))
    output = folder / "raw/mine.json"
    acquire.main("mine", json.dumps({**nothing, "format": format_name, "path": str(original)}), output)
    assert verify(output)["facts"]["rows_of_other_shape"] == 0
    return output


def mixed(folder: Path, format_name: str, content: bytes) -> list[bytes]:
    """The mix and the held-out rows of a file."""
    raw = acquired(folder, format_name, content)
    made = {name: folder / "data" / f"{name}.json" for name in ("mix_file", "heldout", "funnel", "rejects")}
    mix.main(source=[raw], settings=json.dumps(mix_settings(format_name)), **made)
    return [made[name].read_bytes() for name in ("mix_file", "heldout")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> list[bytes]:
    rows = [as_published(number, "id") for number in range(len(TEXTS))]
    return mixed(tmp_path_factory.mktemp("expected"), "sharegpt", array(rows))


@pytest.mark.parametrize("packed", CONTAINERS)
@pytest.mark.parametrize("format_name", ROWS)
def test_the_same_rows_give_the_same_mix(tmp_path: Path, expected, format_name: str, packed: str) -> None:
    rows = list(map(ROWS[format_name], range(len(TEXTS))))
    content = CONTAINERS[packed](rows)
    assert mixed(tmp_path, format_name, content) == expected
    assert container(tmp_path / "mine") == packed
    assert [(record.number, record.value) for record in read_records(tmp_path / "mine")] == list(enumerate(rows, 1))


def question(number: int) -> dict:
    return {"role": "user", "content": TEXTS[number][0]}


def answer(text: str) -> dict:
    return {"role": "assistant", "content": text}


PAIRS: dict[str, Callable[[int], dict]] = {
    "texts": lambda n: {"prompt": TEXTS[n][0], "chosen": TEXTS[n][1], "rejected": "No."},
    "messages": lambda n: {
        "prompt": TEXTS[n][0],
        "chosen": [question(n), answer(TEXTS[n][1])],
        "rejected": [question(n), answer("No.")],
    },
    "answers": lambda n: {"prompt": [question(n)], "chosen": [answer(TEXTS[n][1])], "rejected": [answer("No.")]},
    "PKU": lambda n: {
        "prompt": TEXTS[n][0],
        **{"response_0": "No.", "response_1": TEXTS[n][1], "is_response_0_safe": False, "is_response_1_safe": True},
        **{"better_response_id": 1, "safer_response_id": 1},
    },
}


@pytest.mark.parametrize("packed", ["JSON array", "JSON lines, zstd", "Parquet"])
@pytest.mark.parametrize("form", PAIRS)
def test_the_same_preferences_give_the_same_pairs(tmp_path: Path, form: str, packed: str) -> None:
    names = ("pku_saferlhf_v0", "exactly_one_safe") if form == "PKU" else ("chosen_rejected", "chosen")
    format_name, select = names
    raw = acquired(tmp_path, format_name, CONTAINERS[packed](list(map(PAIRS[form], range(len(TEXTS))))))
    made = {name: tmp_path / "data" / f"{name}.json" for name in ("pairs", "jsonl", "funnel", "rejects")}
    select_pairs.main(rows=[raw], settings=json.dumps({"select": select, "formats": [format_name]}), **made)
    assert json.loads(made["pairs"].read_bytes()) == {
        asked: {"responses": [said, "No."], "pairs": [[0, 1]], "sft_target": said} for asked, said in TEXTS
    }


def test_bad_rows_are_counted_listed_and_named_in_parquet_too(tmp_path: Path) -> None:
    rows = [as_messages(number) for number in range(9)]
    rows[4] = {"messages": [{"role": "narrator", "content": "q"}]}
    rows[6] = {"messages": None}
    original = tmp_path / "mine.parquet"
    original.write_bytes(parquet(rows))
    nothing = dict.fromkeys(("repository", "revision", "file", "files", "bytes", "sha256", "rows", "licence"))
    raw = tmp_path / "raw/mine.parquet"
    acquire.main("mine", json.dumps({**nothing, "format": "messages", "path": str(original)}), raw)
    assert verify(raw)["facts"]["rows_of_other_shape"] == 2
    made = {name: tmp_path / "data" / f"{name}.json" for name in ("mix_file", "heldout", "funnel", "rejects")}
    mix.main(source=[raw], settings=json.dumps(mix_settings("messages")), **made)
    listed = [json.loads(line) for line in made["rejects"].read_text().splitlines()]
    assert [(each["file"], each["row"], each["reason"]) for each in listed] == [
        ("mine.parquet", 5, "role_unknown"),
        ("mine.parquet", 7, "messages_wrong_type"),
    ]
    assert verify(made["mix_file"])["inputs"].keys() == {"mine"}
