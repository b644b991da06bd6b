"""`inspect_source.py`: what a file is, how its rows would be understood, and the lines for the recipe."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import inspect_source
from amberline.recipe.check import check_recipe
from amberline.recipe.files import PUBLISHED, put_on_top, read_recipe

USER, ASSISTANT = {"role": "user", "content": "Hi\nthere"}, {"role": "assistant", "content": "Hello."}
CHATS = [
    {"messages": [{"role": "system", "content": "Be brief."}, USER, ASSISTANT], "topic": "greetings"},
    {"messages": [USER, {"role": "bot", "content": "Hello."}]},
    {"messages": [USER]},
    *[{"messages": [USER, ASSISTANT] * 5}] * 3,
]


def said(capsys: pytest.CaptureFixture[str], file: Path, format_name: str | None = None) -> str:
    inspect_source.main(file, format_name)
    return capsys.readouterr().out


def refusal(file: Path, format_name: str | None = None) -> str:
    with pytest.raises(SystemExit) as stop:
        inspect_source.main(file, format_name)
    assert isinstance(stop.value.code, str) and "\n" not in stop.value.code
    return stop.value.code


def recipe_in(text: str) -> dict:
    return yaml.safe_load(text.partition("(docs/recipes.md):\n")[2])


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    file = tmp_path / "My Chats.jsonl"
    file.write_text("\n".join(map(json.dumps, CHATS)))
    return file


def test_conversations_are_told_as_turns(chats: Path, capsys) -> None:
    text = said(capsys, chats)
    assert f"{chats}: JSON lines, {chats.stat().st_size:,} bytes, 6 rows\n" in text
    assert "format: messages (conversations)" in text
    assert (
        "row 1:\n  system: Be brief.\n  human: Hi\\nthere\n  gpt: Hello.\nrow 3:\n  human: Hi\\nthere\nrow 4:" in text
    )
    assert "… and 4 more turns" in text
    assert "6 rows in, 5 out, 1 rejected (role_unknown 1); noted: " in text
    assert "key_left_out: topic 1" in text and "no_answer 1" in text
    assert "role_unknown: first in row 2: messages, message 2 has the role 'bot'" in text


def test_its_lines_are_a_recipe(chats: Path, capsys) -> None:
    lines = recipe_in(said(capsys, chats))
    source = lines["sources"]["my-chats"]
    assert (source["rows"], source["format"], source["path"]) == (6, "messages", str(chats))
    recipe = check_recipe(put_on_top(read_recipe([PUBLISHED]), lines))
    assert recipe.nodes.sources["my-chats"].sha256
    assert recipe.sources_of("my-chats-data") == ["my-chats"]


@pytest.mark.parametrize(
    "file", ["train.jsonl", "report.json", "sharegpt.jsonl", "x.files.jsonl", "2 été.jsonl", "–.jsonl"]
)
def test_its_lines_are_a_recipe_whatever_the_file_is_called(tmp_path: Path, capsys, file: str) -> None:
    (tmp_path / file).write_text("\n".join(map(json.dumps, CHATS)))
    published = read_recipe([PUBLISHED])
    lines = recipe_in(said(capsys, tmp_path / file))
    assert not lines["sources"].keys() & published["sources"].keys()
    check_recipe(put_on_top(published, lines))


def test_a_file_without_a_row_that_can_be_used_gets_no_lines(chats: Path, capsys) -> None:
    chats.write_text(json.dumps(CHATS[1]))
    text = said(capsys, chats)
    assert text.endswith("No row can be used as messages. Fix: correct the rows, or give another --format.\n")
    assert "sources:" not in text


def test_preferences_are_told_with_their_selection(tmp_path: Path, capsys) -> None:
    file = tmp_path / "prefs.parquet"
    rows = [{"prompt": "Hi\nthere", "chosen": [USER, ASSISTANT], "rejected": [USER, {**ASSISTANT, "content": "No."}]}]
    rows = [*rows * 3, {**rows[0], "prompt": "another"}]
    pq.write_table(pa.Table.from_pylist([{**row, "messages": row["chosen"]} for row in rows]), file)
    text = said(capsys, file)
    assert "prefs.parquet: Parquet, " in text and "format: chosen_rejected (preferences)" in text
    assert "It looks like messages, too: --format messages shows it read so." in text
    assert "row 1:\n  human: Hi\\nthere\n  chosen: Hello.\n  rejected: No.\n" in text
    assert "rejected (prompt_disagrees 1)" in text
    assert recipe_in(text)["datasets"]["my-prefs-data"]["select"] == "chosen"
    assert "format: messages (conversations)" in said(capsys, file, "messages")


def test_what_is_nothing_is_one_message(tmp_path: Path, chats: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "none.json")
    assert "it is a folder. Fix: name one of its files." in refusal(tmp_path)
    assert "there is no format 'mesages'" in refusal(chats, "mesages")
    for content, message in (
        ("[]", "there is no row in it"),
        ('[{"question": "q"}]', "its rows look like no known format; keys of row 1: 'question'. Fix: write its rows"),
        ("[1]", "keys of row 1: none, for it is no object"),
        ("id,text\n", "JSON starts with [ or {"),
        ('[{"messages": [{"role": "user", "content": "a"}]}', "cut short"),
    ):
        chats.write_text(content)
        assert message in refusal(chats)
