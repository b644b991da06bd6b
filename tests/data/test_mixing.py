import hashlib
import json
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mix
from amberline.core.manifests import verify
from amberline.data import mixing
from amberline.data.mixing import MixError
from amberline.data.streams import pieces, read_piece
from amberline.formats.registry import load_format
from amberline.recipe.data import Mix
from data.conftest import mix_settings

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
turns = st.lists(st.fixed_dictionaries({"from": texts, "value": texts}), min_size=1, max_size=4)
ids = st.one_of(texts, st.from_regex(r"\A[a-c]_[0-9]{1,2}\Z"))
sharegpt_rows = st.lists(st.fixed_dictionaries({"id": ids, "conversations": turns}), min_size=1, max_size=12)
evol_rows = st.lists(st.fixed_dictionaries({"idx": ids, "conversations": turns}), min_size=1, max_size=12)


def conversation(name: str, *, key: str = "id", text: str = "hello", number: int = 2) -> dict:
    speakers = ("human", "gpt")
    return {key: name, "conversations": [{"from": speakers[i % 2], "value": f"{text} {i}"} for i in range(number)]}


def run(folder: Path, sharegpt: list, evol: list, seed: int = 0, heldout: int = 0) -> tuple[list, list, dict]:
    """Mix rows of ShareGPT and evol-instruct; return the mix, the held-out rows and the account."""
    parts = [("sharegpt.json", "sharegpt", sharegpt), ("evol.json", "evol_instruct", evol)]
    return run_parts(folder, parts, seed, heldout)


def run_parts(
    folder: Path, parts: list[tuple[str, str, list]], seed: int = 0, heldout: int = 0, shares: Sequence[dict] = ()
) -> tuple:
    """Mix rows of any sources, given as file, format and rows."""
    for name, _, rows in parts:
        (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    made = {name: folder / f"{name}.json" for name in ("mix", "heldout")}
    funnel = mixing.mix(
        [(folder / name, load_format(format_name)) for name, format_name, _ in parts],
        Mix(**mix_settings(*(format_name for _, format_name, _ in parts), seed=seed, heldout=heldout, shares=shares)),
        made=made["mix"],
        heldout=made["heldout"],
        rejects=folder / "rejects.jsonl",
    )
    return *(json.loads(path.read_text(encoding="utf-8")) for path in made.values()), funnel.to_json()


def keys(rows: list) -> Counter:
    return Counter(json.dumps([row.get("id", row.get("idx")), row["conversations"]], sort_keys=True) for row in rows)


@given(sharegpt=sharegpt_rows, evol=evol_rows, seed=st.integers(0, 5), heldout=st.integers(0, 3))
def test_every_row_is_in_the_mix_or_held_out(tmp_path_factory, sharegpt, evol, seed, heldout) -> None:
    folder = tmp_path_factory.mktemp("mix")
    # Of each source, something must be of use.
    sharegpt, evol = [*sharegpt, conversation("s")], [*evol, conversation("e", key="idx")]
    try:
        mixed, held, account = run(folder, sharegpt, evol, seed, heldout)
    except MixError:
        assert heldout > 0
        return
    assert keys(mixed) + keys(held) == keys(sharegpt) + keys(evol)
    assert account["counts"][0] == {
        "unit": "rows",
        "in": len(sharegpt) + len(evol),
        "out": len(mixed) + len(held),
        "rejected": {},
    }
    assert account["notes"].get("rows_held_out", 0) == len(held)


def test_the_same_seed_gives_the_same_bytes_as_ever(tmp_path: Path) -> None:
    sharegpt = [conversation(f"s{n}_0") for n in range(60)]
    evol = [conversation(f"e{n}", key="idx") for n in range(40)]
    mixed, *_ = run(tmp_path, sharegpt, evol, seed=7)
    first = (tmp_path / "mix.json").read_bytes()
    run(tmp_path, sharegpt, evol, seed=7)
    assert (tmp_path / "mix.json").read_bytes() == first
    # What this machine gave; every other must give the same.
    assert hashlib.sha256(first).hexdigest() == "b80a082ef22733ed315a1b2cf98fd06cbd05bf1f2c6803cdc3b24a11fd524ffc"
    other, *_ = run(tmp_path, sharegpt, evol, seed=8)
    assert mixed != other
    assert keys(mixed) == keys(other)


def test_order_is_shuffled_evenly() -> None:
    order = mixing._order(20_000, seed=3)
    assert sorted(order) == list(range(20_000))
    # A uniform permutation moves a row by a third of the rows on average (standard error 0.0017 of them), ...
    moved = abs(order - range(20_000)).mean() / 20_000
    assert abs(moved - 1 / 3) < 0.01
    # ... and mixes the sources evenly: the first 9,000 rows make up 45% of every stretch.
    for start in range(0, 20_000, 2_000):
        assert 0.40 < (order[start : start + 2_000] < 9_000).mean() < 0.50


def test_rows_are_on_lines_and_can_be_cut(tmp_path: Path) -> None:
    mixed, *_ = run(
        tmp_path, [conversation(f"s{n}_0", text="é\n漢") for n in range(30)], [conversation("e", key="idx")]
    )
    path = tmp_path / "mix.json"
    assert [value for piece in pieces(path, 4) for _, value in read_piece(path, piece)] == mixed
    assert "é\\n漢" in path.read_text(encoding="utf-8"), "non-ASCII is kept as it is"


def test_heldout_conversations_are_whole(tmp_path: Path) -> None:
    sharegpt = [conversation(f"root{n // 5:03}_{n % 5 * 7}", text=f"{n}") for n in range(100)]
    evol = [conversation(f"e{n}_1", key="idx", text=f"e{n}") for n in range(50)]
    mixed, held, account = run(tmp_path, sharegpt, evol, seed=1, heldout=30)

    def roots(rows: list) -> set:
        return {row["id"].split("_")[0] if row["id"].startswith("root") else row["id"] for row in rows}

    assert len(roots(held)) == 30
    assert not roots(held) & roots(mixed)
    assert account["notes"]["conversations_held_out"] == 30
    assert any(row["id"].startswith("root") for row in held) and any(row["id"].startswith("e") for row in held)
    more = run(tmp_path, sharegpt, evol, seed=1, heldout=31)[1]
    assert roots(held) < roots(more), "holding out more keeps those held out before"
    assert roots(run(tmp_path, sharegpt, evol, seed=2, heldout=30)[1]) != roots(held)


def test_equal_ids_of_two_sources_are_two_conversations(tmp_path: Path) -> None:
    """What is held out of a source hangs on its place among the sources, not on its name."""
    rows = [conversation(f"root{n // 2:03}_{n % 2}", text=f"{n}") for n in range(80)]
    others = [conversation(row["id"], text=f"other {n}") for n, row in enumerate(rows)]
    _, held, account = run_parts(tmp_path, [("a.json", "sharegpt", rows), ("b.json", "sharegpt", others)], heldout=30)
    assert account["notes"]["conversations_held_out"] == 30
    assert len(held) == 60, "two parts each"
    alone = run_parts(tmp_path, [("a.json", "sharegpt", rows)], heldout=30)[1]
    assert {row["id"] for row in held} != {row["id"] for row in alone}, "not the same of both"
    renamed = run_parts(tmp_path, [("x.json", "sharegpt", rows), ("y.json", "sharegpt", others)], heldout=30)[1]
    assert renamed == held


@pytest.mark.parametrize("seed", range(12))
def test_own_ids_with_a_number_are_no_parts(tmp_path: Path, seed: int) -> None:
    own = [conversation(f"identity_{n}", text=f"{n}") for n in range(120)]
    evol = [conversation(f"evolved_{n}", key="idx", text=f"e{n}") for n in range(60)]
    _, held, _ = run(tmp_path, own, evol, seed=seed, heldout=50)
    assert len(held) == 50


def test_a_held_out_set_far_larger_than_asked_stops_the_mix(tmp_path: Path) -> None:
    """Own ids may look like ShareGPT's by chance: seven letters, and a number."""
    own = [conversation(f"example_{n}", text=f"{n}") for n in range(120)]
    evol = [conversation("e", key="idx", text="e")]
    messages = []
    for seed in range(10):
        try:
            assert len(run(tmp_path, own, evol, seed=seed, heldout=1)[1]) == 1
        except MixError as error:
            messages.append(str(error))
    assert 0 < len(messages) < 10
    assert all("heldout is 1 conversations, but these would be 120 of the 121 rows" in message for message in messages)
    assert all("Fix: give each conversation an id of its own" in message for message in messages)


def test_content_withheld_never_trains_under_another_id(tmp_path: Path) -> None:
    own = [conversation(f"x{n}", text=f"{n % 60}") for n in range(120)]
    parts = [conversation(f"aaaaaa{n}_{part}", text=f"p{n} {part}") for n in range(10) for part in (0, 2)]
    evol = [conversation(f"e{n}", key="idx", text=f"p{n} 0" if n < 5 else f"e{n}") for n in range(20)]
    mixed, held, account = run(tmp_path, [*own, *parts], evol, seed=3, heldout=40)

    def contents(rows: list) -> set:
        return {json.dumps(row["conversations"]) for row in rows}

    assert not contents(mixed) & contents(held)
    notes = account["notes"]
    assert notes["rows_held_out"] == len(held) > 40
    assert notes["rows_held_out_as_copies"] > 0
    wholes = [{row["id"][:7] for row in rows if row["id"].startswith("aaaaaa")} for rows in (mixed, held)]
    assert not wholes[0] & wholes[1], "a copy of a part takes its whole conversation along"


def test_copies_under_other_ids_are_counted_and_listed(tmp_path: Path) -> None:
    sharegpt = [conversation("a", text="x"), conversation("b", text="y"), conversation("c", text="x")]
    # The same texts, cut elsewhere, are another content.
    other = {"idx": "d", "conversations": [{"from": "human", "value": "x 0x"}, {"from": "gpt", "value": " 1"}]}
    evol = [conversation("b", key="idx", text="y"), other, conversation("e", key="idx", text="x")]
    mixed, _, account = run(tmp_path, sharegpt, evol)
    assert len(mixed) == 6, "all are kept"
    assert (account["notes"]["duplicate_content"], account["notes"]["duplicate_id"]) == (2, 1)
    listed = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [(row["file"], row["row"], row["detail"]) for row in listed if row["reason"] == "duplicate_content"] == [
        ("sharegpt.json", 3, "sharegpt.json, row 1 has the same turns under another id"),
        ("evol.json", 3, "sharegpt.json, row 1 has the same turns under another id"),
    ]


def test_keys_that_are_not_read_are_counted_and_system_prompts_listed(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "hi", "weight": 0}, {"from": "gpt", "value": "arr", "weight": 0}]
    plain = {"from": "gpt", "value": "arr"}
    rows = [
        {"id": "s0", "system": "Answer as a pirate.", "tools": "[]", "model": "m", "conversations": turns},
        {"id": "s1", "system": " ", "idx": 1, "conversations": [turns[0], plain]},
        *({"id": f"t{n}", f"key{n}": 1, "conversations": [turns[0], plain]} for n in range(80)),
    ]
    mixed, _, account = run(tmp_path, rows, [conversation("e", key="idx", text="e")])
    assert all(row.keys() == {"id", "conversations"} for row in mixed)
    notes = {name: count for name, count in account["notes"].items() if "left_out" in name}
    assert notes["system_prompt_left_out: system"] == 1
    assert notes["key_left_out: system"] == notes["key_left_out: idx"] == notes["key_left_out: tools"] == 1
    assert notes["turn_key_left_out: weight"] == 82
    assert len(notes) == 51 and notes["key_left_out: others"] == 36, "odd names do not swell the account"
    listed = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    prompts = [(row["row"], row["detail"]) for row in listed if row["reason"] == "system_prompt_left_out"]
    assert prompts == [(1, "under the key 'system'")]


def test_any_number_of_sources(tmp_path: Path) -> None:
    parts = [(f"{n}.json", "sharegpt", [conversation(f"{n}x{i}_0") for i in range(n + 1)]) for n in range(5)]
    mixed, _, account = run_parts(tmp_path, parts)
    assert keys(mixed) == keys([row for _, _, rows in parts for row in rows])
    assert {name: account["notes"][f"rows_kept_of_{name}"] for name in "01234"} == dict(
        zip("01234", range(1, 6), strict=True)
    )


def test_more_cannot_be_held_out_than_there_is(tmp_path: Path) -> None:
    with pytest.raises(MixError, match="only 2 conversations in all"):
        run(tmp_path, [conversation("aaaaaaa_0"), conversation("aaaaaaa_7")], [conversation("e", key="idx")], heldout=2)
    assert not (tmp_path / "mix.json").exists()


def test_what_is_remarkable_is_kept_and_listed(tmp_path: Path) -> None:
    odd = {"id": 12, "conversations": [{"from": "human", "value": "say <s>"}, {"from": "gpt", "value": " "}], "x": 1}
    sharegpt = [conversation("a_0"), odd, conversation("a_0", text="again"), conversation("n_0", text="\0")]
    sharegpt.append({"id": "u_0", "conversations": [{"from": "alien", "value": "hi", "markdown": None}]})
    mixed, _, account = run(tmp_path, sharegpt, [conversation("a_0", key="idx")])
    assert len(mixed) == 6
    assert {"id": "12", "conversations": odd["conversations"]} in mixed
    assert account["counts"][0]["rejected"] == {}
    notes = {
        name: account["notes"][name]
        for name in ("empty_turn", "literal_special_token", "duplicate_id", "nul_character", "unknown_speaker")
    }
    assert notes == {
        "empty_turn": 1,
        "literal_special_token": 1,
        "duplicate_id": 2,
        "nul_character": 1,
        "unknown_speaker": 1,
    }
    listed = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert all(row["kept"] for row in listed)
    assert sorted((row["file"], row["row"], row["reason"]) for row in listed) == [
        ("evol.json", 1, "duplicate_id"),
        ("sharegpt.json", 2, "empty_turn"),
        ("sharegpt.json", 2, "literal_special_token"),
        ("sharegpt.json", 3, "duplicate_id"),
        ("sharegpt.json", 4, "nul_character"),
        ("sharegpt.json", 5, "unknown_speaker"),
    ]


def test_memory_does_not_hold_the_rows(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        rows = [conversation(f"s{n}_0", text=f"{n} {'x' * 1000}") for n in range(count)]
        (tmp_path / "sharegpt.json").write_text(json.dumps(rows))
        del rows
        (tmp_path / "evol.json").write_text(json.dumps([conversation("e", key="idx")]))
        tracemalloc.start()
        made = {name: tmp_path / f"{name}.json" for name in ("made", "heldout", "rejects")}
        names = {"sharegpt.json": "sharegpt", "evol.json": "evol_instruct"}
        settings = Mix(**mix_settings(*names.values(), heldout=2))
        mixing.mix([(tmp_path / file, load_format(name)) for file, name in names.items()], settings, **made)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    small, large = peak(500), peak(5_000)
    # 9 MB more of rows, and some hundred bytes more of numbers a row at the most.
    assert large - small < 2e6


def test_program_describes_what_it_made(tmp_path: Path, raw) -> None:
    sources = [
        raw("sharegpt.json", [conversation("a_0"), {"id": "b_0"}, conversation("c_0", text="c")]),
        raw("evol_instruct.json", [conversation("e", key="idx", text="e")]),
    ]
    made = {name: tmp_path / "data" / f"{name}.json" for name in ("mix_file", "heldout", "funnel", "rejects")}
    settings = mix_settings("sharegpt", "evol_instruct", heldout=1)
    mix.main(source=sources, settings=json.dumps(settings), **made)
    for name, rows in (("mix_file", 2), ("heldout", 1)):
        manifest = verify(made[name])
        assert manifest["inputs"].keys() == {"sharegpt", "evol_instruct"}
        assert len(json.loads(made[name].read_bytes())) == rows
    assert json.loads(made["funnel"].read_bytes())["counts"][0] == {
        "unit": "rows",
        "in": 4,
        "out": 3,
        "rejected": {"conversations_missing": 1},
    }
    (reject,) = map(json.loads, made["rejects"].read_text().splitlines())
    assert reject["file"] == "sharegpt.json"
    assert (reject["row"], reject["id"], reject["record"], reject["kept"]) == (2, "b_0", {"id": "b_0"}, False)


def test_sources_and_formats_must_fit(tmp_path: Path, raw) -> None:
    rows = [raw("a.json", [conversation("a_0")]), raw("b.json", [conversation("b_0")])]
    made = {name: tmp_path / "data" / f"{name}.json" for name in ("mix_file", "heldout", "funnel", "rejects")}

    def refusal(source: list[Path], *formats: str) -> str:
        with pytest.raises(SystemExit) as stop:
            mix.main(source=source, settings=json.dumps(mix_settings(*formats)), **made)
        assert not (tmp_path / "data").exists()
        return str(stop.value)

    assert "2 files, but 1 formats" in refusal(rows, "sharegpt")
    assert "there is no format 'shargpt'; there are: alpaca, " in refusal(rows, "shargpt", "sharegpt")
    assert "pku_saferlhf_v0 holds preferences, but conversations" in refusal(rows, "pku_saferlhf_v0", "sharegpt")
    assert "given twice" in refusal([rows[0], rows[0]], "sharegpt", "sharegpt")
