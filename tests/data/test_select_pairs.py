import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import select_pairs
from amberline.core.manifests import verify
from amberline.data import selecting_pairs
from amberline.data.streams import BadFile
from amberline.formats.registry import load_format
from amberline.recipe.data import Pairs

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
safe_rows = st.builds(
    lambda prompt, first, second, safe: row(prompt, first, second, *safe),
    st.sampled_from(["p", "q", "é", ""]),
    texts,
    texts,
    st.tuples(st.booleans(), st.booleans()),
)


def row(prompt: str, first: str, second: str, first_safe: object, second_safe: object, **more: object) -> dict:
    return {
        "prompt": prompt,
        "response_0": first,
        "response_1": second,
        "is_response_0_safe": first_safe,
        "is_response_1_safe": second_safe,
        "better_response_id": 0,
        "safer_response_id": 0,
        **more,
    }


V1 = {"response_0_harm_category": {}, "response_1_harm_category": {}, "response_0_severity_level": 1}


def select(folder: Path, rows: list, version: str = "v0") -> tuple[dict, list, dict, list]:
    """Select pairs; return the grouped pairs, the JSON lines, the account and the rejects."""
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    name = f"pku_saferlhf_{version}"
    funnel = selecting_pairs.select_pairs(
        [(folder / "rows.jsonl", load_format(name))],
        Pairs(select="exactly_one_safe", formats=[name]),
        folder / "pairs.json",
        folder / "pairs.jsonl",
        folder / "rejects.jsonl",
    )
    lines = (folder / "pairs.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    rejects = (folder / "rejects.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    grouped = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    return grouped, list(map(json.loads, lines)), funnel.to_json(), list(map(json.loads, rejects))


def as_published(rows: list) -> dict:
    """The published selection in the DPO reference's own terms: each row appends its two responses and one pair."""
    data: dict = {}
    for r in rows:
        if r["is_response_0_safe"] != r["is_response_1_safe"]:
            chosen, rejected = (r["response_0"], r["response_1"])[:: 1 if r["is_response_0_safe"] else -1]
            entry = data.setdefault(r["prompt"], {"responses": [], "pairs": [], "sft_target": None})
            n = len(entry["responses"])
            entry["responses"] += [chosen, rejected]
            entry["pairs"].append([n, n + 1])
            entry["sft_target"] = chosen
    return data


@given(st.lists(safe_rows, min_size=1, max_size=15))
def test_pairs_are_those_of_the_published_selection(tmp_path_factory, rows: list) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    expected = as_published(rows)
    if not expected:
        with pytest.raises(BadFile, match="no row has exactly one safe response"):
            select(folder, rows)
        assert not (folder / "pairs.json").exists()
        return
    grouped, lines, account, rejects = select(folder, rows)
    assert grouped == expected
    assert list(grouped) == list(expected), "prompts in order of their first pair"
    assert [(line["prompt"], line["chosen"], line["rejected"]) for line in lines] == [
        (prompt, entry["responses"][chosen], entry["responses"][rejected])
        for prompt, entry in expected.items()
        for chosen, rejected in entry["pairs"]
    ]
    safe = Counter((r["is_response_0_safe"], r["is_response_1_safe"]) for r in rows)
    wanted = {"both_safe": safe[True, True], "both_unsafe": safe[False, False]}
    assert account["counts"] == [
        {
            "unit": "rows",
            "in": len(rows),
            "out": len(lines),
            "rejected": {reason: count for reason, count in wanted.items() if count},
        }
    ]
    assert [r["record"] for r in rejects if not r["kept"]] == [
        r for r in rows if r["is_response_0_safe"] == r["is_response_1_safe"]
    ]


def test_the_last_row_wins_the_target(tmp_path: Path) -> None:
    rows = [row("p", "a", "b", True, False), row("p", "c", "d", False, True), row("p", "a", "b", True, False)]
    grouped, *_ = select(tmp_path, rows[:2])
    assert grouped == {"p": {"responses": ["a", "b", "d", "c"], "pairs": [[0, 1], [2, 3]], "sft_target": "d"}}
    grouped, _, account, _ = select(tmp_path, rows)
    assert grouped["p"]["responses"] == ["a", "b", "d", "c", "a", "b"]
    assert account["notes"]["prompts"] == 1


def test_remarkable_pairs_are_kept_and_listed(tmp_path: Path) -> None:
    rows = [row("", "a", "b", True, False), row("p", "", " ", True, False), row("q", "same", "same", True, False)]
    rows.append(row("p", "a", "b </s>", True, False))
    _, lines, account, rejects = select(tmp_path, rows)
    assert len(lines) == 4
    assert account["notes"] == {
        "literal_special_token": 1,
        "prompts": 3,
        "empty_prompt": 1,
        "empty_chosen_response": 1,
        "empty_rejected_response": 1,
        "equal_responses": 1,
        "sft_target_overwritten": 1,
    }
    assert [(r["row"], r["reason"]) for r in rejects] == [
        (1, "empty_prompt"),
        (2, "empty_chosen_response"),
        (2, "empty_rejected_response"),
        (3, "equal_responses"),
        (4, "literal_special_token"),
        (4, "sft_target_overwritten"),
    ]


def test_rows_that_repeat_or_contradict_others_are_counted_and_listed(tmp_path: Path) -> None:
    rows = [row("q", *pair, True, False) for pair in ("AB", "BA", "AC", "AB", "CC", "CC")]
    rows.append(row("other", "B", "A", True, False))
    grouped, lines, account, rejects = select(tmp_path, rows)
    assert len(lines) == 7 and grouped["q"]["sft_target"] == "C", "all are kept, as published"
    assert account["notes"] == {
        "prompts": 2,
        "contradicting_pair": 2,
        "duplicate_pair": 2,
        "sft_target_overwritten": 3,
        "equal_responses": 2,
    }
    listed = [(r["row"], r["reason"]) for r in rejects if r["reason"] != "equal_responses"]
    assert listed == [
        (2, "contradicting_pair"),
        (2, "sft_target_overwritten"),
        (3, "sft_target_overwritten"),
        (4, "duplicate_pair"),
        (4, "contradicting_pair"),
        (5, "sft_target_overwritten"),
        (6, "duplicate_pair"),
    ]


def test_columns_that_are_not_read_are_counted(tmp_path: Path) -> None:
    rows = [row("p", "a", "b", True, False, system="Be brief.", score=n, **{"\ud800": 1}) for n in range(3)]
    notes = select(tmp_path, rows)[2]["notes"]
    assert (notes["system_prompt_left_out: system"], notes["key_left_out: score"]) == (3, 3)
    assert notes["key_left_out: \\ud800"] == 3


def test_v1_is_taken_only_when_asked_for_by_name(tmp_path: Path) -> None:
    v0, v1 = row("p", "a", "b", True, False), row("p", "a", "b", True, False, **V1)
    assert select(tmp_path, [v1], "v1")[0] == select(tmp_path, [v0], "v0")[0]
    with pytest.raises(BadFile, match=r"row 1: .* PKU-SafeRLHF v1, but v0 is asked for.*format: pku_saferlhf_v1"):
        select(tmp_path, [v1])
    with pytest.raises(BadFile, match=r"row 2: .* PKU-SafeRLHF v1, but v0 is asked for"):
        select(tmp_path, [v0, v1])
    with pytest.raises(BadFile, match="v0, but v1 is asked for"):
        select(tmp_path, [v0], "v1")


def test_program_describes_what_it_made(tmp_path: Path, raw) -> None:
    rows = raw("pku_train.jsonl", [row("p", "a", "b", True, False), row("p", "a", "b", True, True)])
    more = raw("more.jsonl", [row("p", "c", "d", False, True, **V1), row("q", "a", "b", True, False, **V1)])
    made = {name: tmp_path / "data" / f"{name}.json" for name in ("pairs", "jsonl", "funnel", "rejects")}
    settings = {"select": "exactly_one_safe", "formats": ["pku_saferlhf_v0", "pku_saferlhf_v1"]}
    select_pairs.main(rows=[rows, more], settings=json.dumps(settings), **made)
    assert json.loads(made["pairs"].read_bytes()) == {
        "p": {"responses": ["a", "b", "d", "c"], "pairs": [[0, 1], [2, 3]], "sft_target": "d"},
        "q": {"responses": ["a", "b"], "pairs": [[0, 1]], "sft_target": "a"},
    }
    for name in ("pairs", "jsonl"):
        manifest = verify(made[name])
        assert {name: parent["digest"] for name, parent in manifest["inputs"].items()} == {
            "pku_train": verify(rows)["digest"],
            "more": verify(more)["digest"],
        }
        assert manifest["facts"]["counts"][0]["out"] == 3
    assert json.loads(made["funnel"].read_bytes())["counts"][0]["rejected"] == {"both_safe": 1}


def test_prompts_that_are_trained_on_too_are_counted_and_listed(tmp_path: Path, raw) -> None:
    settings = json.dumps({"select": "exactly_one_safe", "formats": ["pku_saferlhf_v0"]})
    prompts = {"train": ["p", "q", "only safe answers"], "test": ["p", "p", "r", "only safe answers", "q"]}
    made: dict[str, dict] = {}
    for part, trained_on in (("train", None), ("test", tmp_path / "train/pairs.json")):
        rows = [row(prompt, part, "b", True, part == "train" and prompt[0] == "o") for prompt in prompts[part]]
        made[part] = {name: tmp_path / part / f"{name}.json" for name in ("pairs", "jsonl", "funnel", "rejects")}
        select_pairs.main(rows=[raw(f"{part}.jsonl", rows)], settings=settings, trained_on=trained_on, **made[part])
    assert len(json.loads(made["test"]["pairs"].read_bytes())) == 4, "the published files stay whole"
    assert json.loads(made["test"]["funnel"].read_bytes())["notes"]["prompt_trained_on"] == 2
    listed = [json.loads(line) for line in made["test"]["rejects"].read_text().splitlines()]
    assert [each["row"] for each in listed if each["reason"] == "prompt_trained_on"] == [1, 5]
    assert "prompt_trained_on" not in json.loads(made["train"]["funnel"].read_bytes())["notes"]


def message(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def test_what_a_row_says_is_preferred_is_chosen(tmp_path: Path, raw) -> None:
    question, answer, more = message("user", "q"), message("assistant", "a"), message("user", "r")
    long = [message("system", "s"), question, answer, more]
    rows = [
        {"prompt": "q", "chosen": [question, answer], "rejected": [question, message("assistant", "b")]},
        {"chosen": [*long, answer], "rejected": [*long, message("assistant", "c")]},
        {"prompt": "x", "chosen": [question, answer], "rejected": [question, answer]},
        {"prompt": "q", "chosen": "d", "rejected": "e"},
        {"prompt": long, "chosen": "f", "rejected": "g"},
    ]
    made = {name: tmp_path / "data" / f"{name}.json" for name in ("pairs", "jsonl", "funnel", "rejects")}
    settings = json.dumps({"select": "chosen", "formats": ["chosen_rejected"]})
    select_pairs.main(rows=[raw("mine.jsonl", rows)], settings=settings, **made)
    turns = [
        {"from": speaker, "value": text}
        for speaker, text in zip(("system", "human", "gpt", "human"), "sqar", strict=True)
    ]
    key = json.dumps(turns, separators=(",", ":"))
    assert json.loads(made["pairs"].read_bytes()) == {
        "q": {"responses": ["a", "b", "d", "e"], "pairs": [[0, 1], [2, 3]], "sft_target": "d"},
        key: {"responses": ["a", "c", "f", "g"], "pairs": [[0, 1], [2, 3]], "sft_target": "f", "turns": turns},
    }
    assert [json.loads(line) for line in made["jsonl"].read_text().splitlines()] == [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "d", "rejected": "e"},
        {"prompt": key, "chosen": "a", "rejected": "c", "turns": turns},
        {"prompt": key, "chosen": "f", "rejected": "g", "turns": turns},
    ]
    assert json.loads(made["funnel"].read_bytes())["counts"][0]["rejected"] == {"prompt_disagrees": 1}


def test_rows_that_do_not_tell_what_is_asked_for_are_refused(tmp_path: Path, raw) -> None:
    made = {name: tmp_path / "data" / f"{name}.json" for name in ("pairs", "jsonl", "funnel", "rejects")}
    settings = json.dumps({"select": "chosen", "formats": ["pku_saferlhf_v0"]})
    with pytest.raises(SystemExit, match=r"what `select: chosen` asks for\. Fix: write select: exactly_one_safe"):
        select_pairs.main(rows=[raw("pku.jsonl", [row("p", "a", "b", True, False)])], settings=settings, **made)
