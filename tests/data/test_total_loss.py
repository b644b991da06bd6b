"""A stage from which nothing comes out although rows went in stops and says why; programs end with their counts."""

import json
from pathlib import Path

import pytest

import acquire
import make_tiny_model
import mix
import select_pairs
from data.conftest import mix_settings

QUESTION, ANSWER = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}


def rows(*speakers: str, number: int = 3, key: str = "id") -> list[dict]:
    turns = [{"from": speaker, "value": f"text of {speaker}"} for speaker in speakers]
    return [{key: f"r{index}", "conversations": turns} for index in range(number)]


def pair(first_safe: object, second_safe: object) -> dict:
    return {
        "prompt": "p",
        "response_0": "a",
        "response_1": "b",
        "is_response_0_safe": first_safe,
        "is_response_1_safe": second_safe,
        "better_response_id": 0,
        "safer_response_id": 0,
    }


def run_mix(folder: Path, *sources: Path, heldout: int = 0) -> dict[str, Path]:
    made = {name: folder / "made" / name for name in ("mix_file", "heldout", "funnel", "rejects")}
    formats = ["sharegpt", "evol_instruct"][: len(sources)]
    settings = json.dumps(mix_settings(*formats, heldout=heldout))
    mix.main(source=list(sources), settings=settings, **made)
    return made


def run_pairs(folder: Path, source: Path) -> None:
    made = {name: folder / "made" / name for name in ("pairs", "jsonl", "funnel", "rejects")}
    settings = json.dumps({"select": "exactly_one_safe", "formats": ["pku_saferlhf_v0"]})
    select_pairs.main(rows=[source], settings=settings, **made)


def test_user_and_assistant_become_human_and_gpt_and_are_counted(raw, tmp_path: Path, capsys) -> None:
    own = rows("user", "assistant") + rows("user", "chatgpt", number=1) + rows("human", "gpt", number=1)
    made = run_mix(tmp_path, raw("own.json", own))
    speakers = sorted(
        [turn["from"] for turn in row["conversations"]] for row in json.loads(made["mix_file"].read_bytes())
    )
    assert speakers == [["human", "gpt"]] * 4 + [["user", "chatgpt"]], "other names stay"
    assert json.loads(made["funnel"].read_bytes())["notes"]["user_and_assistant_renamed"] == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("mix: 5 rows in, 5 out, 0 rejected; noted: rows_kept_of_own 5, user_and_assistant_renamed 3")


@pytest.mark.parametrize("speakers", [("tom", "tim"), ("human", "human"), ("gpt", "human"), ("system", "gpt")])
def test_a_source_without_a_question_and_its_answer_stops_the_mix(raw, tmp_path: Path, speakers) -> None:
    lost = raw("lost.json", rows(*speakers, key="idx"))
    with pytest.raises(SystemExit) as stop:
        run_mix(tmp_path, raw("good.json", rows("human", "gpt")), lost)
    message = str(stop.value)
    assert f"{lost}: in no row does an assistant's turn follow a human's" in message
    assert repr(speakers[0]) in message and "human and gpt, or user and assistant" in message
    assert not any((tmp_path / "made").iterdir())


def test_the_commonest_reason_is_told_not_the_first(raw, tmp_path: Path) -> None:
    bad = ["x", {"idx": "a"}, {"idx": "b", "conversations": []}, {"idx": "c", "conversations": []}]
    with pytest.raises(SystemExit, match=r"most often \(2 times\) because of conversations_empty, first in row 3: "):
        run_mix(tmp_path, raw("good.json", rows("human", "gpt")), raw("bad.json", bad))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (
            ("true", "false"),
            r"\(2 times\) because of safe_wrong_type, first in row 1: 'is_response_0_safe' is a string",
        ),
        ((1, 0), r"because of safe_wrong_type, first in row 1: 'is_response_0_safe' is a number, not true or false"),
        ((True, True), "because of both_safe, first in row 1"),
    ],
)
def test_labels_that_cannot_be_read_are_told_from_pairs_that_are_none(raw, tmp_path: Path, labels, reason) -> None:
    with pytest.raises(SystemExit, match=f"no row has exactly one safe response, most often .*{reason}"):
        run_pairs(tmp_path, raw("pku.json", [pair(*labels), pair(*labels)]))


def test_acquire_tells_the_commonest_reason(tmp_path: Path) -> None:
    bad = ["x", {"id": "b", "conversations": []}, {"id": "c", "conversations": []}]
    (tmp_path / "rows.json").write_text(json.dumps(bad))
    nothing = dict.fromkeys(("repository", "revision", "file", "files", "bytes", "sha256", "rows", "licence"))
    source = {"format": "sharegpt", "path": str(tmp_path / "rows.json"), **nothing}
    with pytest.raises(SystemExit, match=r"\(2 times\) because of conversations_empty, first in row 2"):
        acquire.main("own", json.dumps(source), tmp_path / "raw.json")


def test_a_tiny_model_needs_texts_of_every_source(raw, tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "layers": 1,
        "heads": 1,
        "context": 8,
        "seed": 0,
        "architecture": "llama",
        "tokenizer": None,
    }
    settings = json.dumps({"tiny": {"vocabulary": 300, **sizes}, "formats": ["sharegpt", "evol_instruct"]})
    sources = [raw("good.json", rows("human", "gpt")), raw("bad.json", [{"idx": 1}])]
    with pytest.raises(SystemExit, match=r"bad.json: no row can be used, .*conversations_missing, first in row 1"):
        make_tiny_model.main(sources, settings, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_the_last_line_counts_rejects_by_reason(raw, tmp_path: Path, capsys) -> None:
    run_pairs(tmp_path, raw("pku.json", [pair(True, False), pair(True, True), pair(True, True), pair(False, False)]))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("select_pairs: 4 rows in, 1 out, 3 rejected (both_safe 2, both_unsafe 1); noted: prompts 1")


@pytest.mark.parametrize("depth", [150, 600, 900])
def test_a_nested_row_is_a_reject(raw, tmp_path: Path, depth: int) -> None:
    """Reading takes deeper rows than any writer of the rejects does."""
    deep = json.dumps([*rows("human", "gpt"), {"id": "d", "conversations": "DEEP"}])
    made = run_mix(tmp_path, raw("own.json", deep.replace('"DEEP"', "[" * depth + "]" * depth).encode()))
    listed = map(json.loads, made["rejects"].read_text().splitlines())
    (reject,) = (row for row in listed if not row["kept"])
    assert (reject["row"], reject["reason"], reject["record"]) == (4, "turn_not_an_object", None)
    assert reject["detail"].endswith("(the record is nested too deep to be listed)")
