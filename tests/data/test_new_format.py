"""A format is added with one file: rows of `dolly.py`, put among the others, are acquired, mixed and chunked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from amberline.core.code import imported_files
from amberline.core.manifests import model_content, read_manifest, write_manifest
from amberline.formats.registry import FormatError, format_file, format_names, load_format
from amberline.text.small_tokenizer import save_llama_tokenizer, train_sentencepiece
from data.conftest import mix_settings
from programs import PROGRAMS, programs_with

CHATS = [
    {"id": f"chat{n}_0", "conversations": [{"from": "human", "value": f"Hello {n}"}, {"from": "gpt", "value": "Hi."}]}
    for n in range(3)
]
TASKS = [
    {"instruction": "Add them.", "context": "1 and 2", "response": "3"},
    {"instruction": "Name a tree.", "context": "", "response": "An oak."},
    {"instruction": "Name a tree.", "context": None, "response": "A beech."},
]
AS_CONVERSATIONS = [
    [("human", "1 and 2\n\nAdd them."), ("gpt", "3")],
    [("human", "Name a tree."), ("gpt", "An oak.")],
]


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """The programs, with Dolly among the formats."""
    return programs_with(Path(__file__).with_name("dolly.py"), "formats", tmp_path)


def run(program: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a program; a list gives its option several times, a mapping as JSON."""
    words = []
    for name, value in options.items():
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{name}", json.dumps(each) if isinstance(each, dict) else str(each)]
    return subprocess.run([sys.executable, program, *words], capture_output=True, text=True)


def acquired(scripts: Path, folder: Path, name: str, format_name: str, rows: list) -> Path:
    original = folder / f"{name}-as-published.json"
    original.write_text(json.dumps(rows))
    unknown = dict.fromkeys(("repository", "revision", "file", "files", "bytes", "sha256", "rows", "licence"))
    output = folder / "raw" / f"{name}.json"
    source = {"format": format_name, "path": str(original), **unknown}
    done = run(scripts / "acquire.py", name=name, source=source, output=output)
    assert done.returncode == 0, done.stderr
    return output


def tokenizer(folder: Path) -> Path:
    folder.mkdir()
    save_llama_tokenizer(
        train_sentencepiece(["Numbers, trees and greetings of a small tokenizer."] * 9, 290), folder, 99
    )
    files = list(folder.iterdir())
    write_manifest(folder, kind="model", files=files, inputs={}, settings={}, facts={}, digest=model_content(folder))
    return folder


def turns(row: dict) -> list[tuple[str, str]]:
    return [(turn["from"], turn["value"]) for turn in row["conversations"]]


def test_one_file_among_the_others_is_enough(scripts: Path, tmp_path: Path) -> None:
    raw = [
        acquired(scripts, tmp_path, "chats", "sharegpt", CHATS),
        acquired(scripts, tmp_path, "tasks", "dolly", TASKS),
    ]
    assert read_manifest(raw[1])["settings"] == {"name": "tasks", "format": "dolly"}
    assert read_manifest(raw[1])["facts"]["rows_of_other_shape"] == 1
    made = {name: tmp_path / "data" / f"{name}.json" for name in ("mix", "heldout", "funnel", "rejects")}
    settings = mix_settings("sharegpt", "dolly")
    done = run(scripts / "mix.py", source=raw, settings=settings, **made)
    assert done.returncode == 0, done.stderr
    mixed = json.loads(made["mix"].read_text())
    expected = [*map(turns, CHATS), *AS_CONVERSATIONS]
    assert sorted(map(turns, mixed)) == sorted(expected)
    assert read_manifest(made["mix"])["inputs"].keys() == {"chats", "tasks"}
    (reject,) = map(json.loads, made["rejects"].read_text().splitlines())
    assert (reject["file"], reject["row"], reject["reason"]) == ("tasks.json", 3, "text_wrong_type")

    made = {name: tmp_path / "chunks" / f"{name}.json" for name in ("chunks", "funnel", "rejects", "comparison")}
    settings = {"mode": "fastchat", "template": "vicuna", "max_length": 200, "keep_leading_answer": False}
    given = {"conversations": tmp_path / "data/mix.json", "model": tokenizer(tmp_path / "model")}
    done = run(scripts / "chunk_conversations.py", **given, settings=settings, **made)
    assert done.returncode == 0, done.stderr
    assert [turns(row) for row in json.loads(made["chunks"].read_text())] == list(map(turns, mixed))


def test_a_file_of_another_format_is_refused(scripts: Path, tmp_path: Path) -> None:
    raw = acquired(scripts, tmp_path, "chats", "sharegpt", CHATS)
    made = {name: tmp_path / "data" / f"{name}.json" for name in ("mix", "heldout", "funnel", "rejects")}
    done = run(scripts / "mix.py", source=raw, settings=mix_settings("dolly"), **made)
    assert done.returncode == 1
    assert (
        "no row can be used, most often (3 times) because of column_missing, first in row 1: instruction, context"
        in done.stderr
    )
    assert "rows must be {'instruction', 'context', 'response'}" in done.stderr


def test_formats_are_found_by_their_names() -> None:
    assert {name: load_format(name).holds for name in format_names()} == {
        "alpaca": "conversations",
        "chosen_rejected": "preferences",
        "evol_instruct": "conversations",
        "messages": "conversations",
        "pku_saferlhf_v0": "preferences",
        "pku_saferlhf_v1": "preferences",
        "sharegpt": "conversations",
    }
    with pytest.raises(FormatError, match="there is no format 'base'; there are: alpaca"):
        load_format("base")


@pytest.mark.parametrize("program", ["acquire.py", "mix.py", "select_pairs.py", "make_tiny_model.py"])
def test_the_code_of_a_program_does_not_hold_the_formats(program: str) -> None:
    """A change of one format reruns what reads that format: rules give its file beside the program."""
    files = imported_files(PROGRAMS / program)
    assert not {format_file(name) for name in format_names()} & set(files)
    shared = {"__init__.py", "base.py", "registry.py"} | ({"recognition.py"} if program == "acquire.py" else set())
    assert {file.name for file in files if file.parent.name == "formats"} == shared
