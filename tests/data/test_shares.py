"""How much of each source goes into a mix: caps, fractions and repeats, exactly accounted for."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amberline.data.mixing import MixError
from amberline.data.row_sources import sources_file
from data.conftest import mix_settings
from data.test_mixing import conversation, run_parts


def parts(first: int, second: int) -> list[tuple[str, str, list]]:
    return [
        ("a.json", "sharegpt", [conversation(f"a{n}", text=f"a{n}") for n in range(first)]),
        ("b.json", "evol_instruct", [conversation(f"b{n}", key="idx", text=f"b{n}") for n in range(second)]),
    ]


def ids(rows: list) -> Counter:
    return Counter(row["id"] for row in rows)


def of(rows: list, letter: str) -> set[str]:
    return {row["id"] for row in rows if row["id"][0] == letter}


def test_a_cap_takes_so_many_and_counts_and_lists_the_others(tmp_path: Path) -> None:
    given_parts = parts(20, 30)
    given_parts[0][2].insert(3, {"id": "bad"})
    mixed, _, account = run_parts(tmp_path, given_parts, shares=[{"take": 8}, {}])
    assert len(of(mixed, "a")) == 8 and len(of(mixed, "b")) == 30
    rows = next(each for each in account["counts"] if each["unit"] == "rows")
    assert rows == {"unit": "rows", "in": 51, "out": 38, "rejected": {"conversations_missing": 1, "not_taken": 12}}
    listed = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    passed_over = [each for each in listed if each["reason"] == "not_taken"]
    assert {each["id"] for each in passed_over} == {f"a{n}" for n in range(20)} - of(mixed, "a")
    assert "takes 8 rows" in passed_over[0]["detail"] and passed_over[0]["record"] is None
    assert account["notes"]["rows_kept_of_a"] == 8


def test_what_is_taken_hangs_on_the_seed_and_more_holds_less(tmp_path: Path) -> None:
    def taken(take: int, seed: int = 0) -> set[str]:
        return of(run_parts(tmp_path, parts(40, 1), seed=seed, shares=[{"take": take}, {}])[0], "a")

    assert taken(10) < taken(11) < taken(40) == taken(99)
    assert taken(10) == taken(10) != taken(10, seed=1)
    assert taken(10) != {f"a{n}" for n in range(10)}, "not the first ones"


@pytest.mark.parametrize(("fraction", "expected"), [(0.1, 3), (0.29, 9), (0.5, 15), (1, 30)])
def test_a_fraction_is_the_nearest_number_of_rows(tmp_path: Path, fraction: float, expected: int) -> None:
    mixed, _, _ = run_parts(tmp_path, parts(30, 5), shares=[{"fraction": fraction}, {}])
    assert (len(of(mixed, "a")), len(of(mixed, "b"))) == (expected, 5)


def test_a_fraction_that_is_no_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        MixError, match=r"fraction is 0\.01, and of the 30 rows of .*a\.json that is none\. Fix: raise it"
    ):
        run_parts(tmp_path, parts(30, 5), shares=[{"fraction": 0.01}, {}])


def test_repeats_are_counted_and_stand_apart(tmp_path: Path) -> None:
    mixed, _, account = run_parts(tmp_path, parts(10, 20), shares=[{"repeat": 3}, {}])
    assert ids(mixed) == Counter({f"a{n}": 3 for n in range(10)}) + Counter({f"b{n}": 1 for n in range(20)})
    by_unit = {each["unit"]: (each["in"], each["out"]) for each in account["counts"]}
    assert by_unit == {"rows": (50, 50), "turns": (100, 100)}
    assert account["notes"]["rows_added_by_repeating_a"] == 20
    assert "rows_added_by_repeating_b" not in account["notes"]
    places = [place for place, row in enumerate(mixed) if row["id"] == "a0"]
    assert places != list(range(places[0], places[0] + 3)), "shuffled with all others"
    import numpy as np

    numbers = np.load(sources_file(tmp_path / "mix.json"))
    assert [("a", "b")[number] for number in numbers] == [row["id"][0] for row in mixed]


@given(
    heldout=st.integers(0, 6),
    repeat=st.integers(1, 3),
    take=st.none() | st.integers(1, 20),
    copies=st.integers(0, 4),
    seed=st.integers(0, 3),
)
def test_what_is_held_out_is_never_trained_on(tmp_path_factory, heldout, repeat, take, copies, seed) -> None:
    folder = tmp_path_factory.mktemp("shares")
    given_parts = parts(20, 6)
    # The same turns under other ids, in the other source.
    given_parts[1][2].extend(conversation(f"copy{n}", key="idx", text=f"a{n}") for n in range(copies))
    shares = [{"take": take, "repeat": repeat}, {"repeat": 2}]
    try:
        mixed, held, account = run_parts(folder, given_parts, seed=seed, heldout=heldout, shares=shares)
    except MixError:
        return
    assert all(count == 1 for count in ids(held).values())
    texts = [{turn["value"] for row in rows for turn in row["conversations"]} for rows in (mixed, held)]
    assert not texts[0] & texts[1]
    rows = next(each for each in account["counts"] if each["unit"] == "rows")
    assert rows["out"] == len(mixed) + len(held) == rows["in"] - sum(rows["rejected"].values())
    assert len(ids(mixed)) + len(held) == min(take or 20, 20) + 6 + copies


def test_a_share_for_each_source_is_asked_for() -> None:
    from amberline.recipe.data import Mix

    with pytest.raises(ValueError, match="there are 2 formats, but 1 shares"):
        Mix(**mix_settings("sharegpt", "evol_instruct", shares=[{}]))
