import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amberline.core.funnel import EDGES, Funnel, FunnelError, Reject, write_rejects

units = st.sampled_from(["rows", "rounds", "tokens"])
events = st.lists(st.tuples(units, st.sampled_from(["kept", "too_long", "empty"]), st.integers(1, 50)), max_size=30)


def account(happened: list) -> Funnel:
    funnel = Funnel("stage")
    for unit, fate, n in happened:
        funnel.add(unit, into=n, out=n if fate == "kept" else 0)
        if fate != "kept":
            funnel.reject(unit, fate, n)
            funnel.note("remarkable")
        funnel.observe("sizes", n)
    return funnel


@given(happened=events, cut=st.integers(0, 30))
def test_a_merged_account_is_that_of_all(happened, cut) -> None:
    merged = account(happened[:cut])
    merged.merge(pickle.loads(pickle.dumps(account(happened[cut:]))))
    merged.close()
    assert merged.to_json() == account(happened).to_json()


@given(happened=events.filter(bool), lost=st.integers(1, 5), data=st.data())
def test_a_lost_unit_is_an_error(happened, lost, data) -> None:
    funnel = account(happened)
    unit = data.draw(st.sampled_from([unit for unit, *_ in happened]))
    funnel.add(unit, into=lost)
    with pytest.raises(FunnelError, match=f"the account of {unit} does not close"):
        funnel.close()


@given(st.lists(st.integers(0, 2**26), min_size=1, max_size=50))
def test_histogram_bins_hold_the_values(values: list[int]) -> None:
    funnel = Funnel("stage")
    for value in values:
        funnel.observe("sizes", value)
    histogram = funnel.to_json()["histograms"]["sizes"]
    edges, counts = histogram["edges"], histogram["counts"]
    assert edges == sorted(set(edges)) == list(EDGES[: len(edges)])
    for index, count in enumerate(counts):
        above = edges[index + 1] if index + 1 < len(EDGES) else float("inf")
        assert count == sum(edges[index] <= value < above for value in values)


def test_written_account(tmp_path: Path) -> None:
    funnel = account([("rows", "kept", 3), ("rows", "too_long", 2)])
    funnel.write(tmp_path / "funnel.json")
    assert json.loads((tmp_path / "funnel.json").read_text()) == {
        "stage": "stage",
        "counts": [{"unit": "rows", "in": 5, "out": 3, "rejected": {"too_long": 2}}],
        "notes": {"remarkable": 1},
        "histograms": {"sizes": {"edges": [0, 1, 2, 3, 4], "counts": [0, 0, 1, 1]}},
    }


def test_an_account_that_does_not_close_is_not_written(tmp_path: Path) -> None:
    funnel = Funnel("stage")
    funnel.add("rows", into=2, out=1)
    with pytest.raises(FunnelError, match="2 in, 1 out, 0 rejected"):
        funnel.write(tmp_path / "funnel.json")
    assert list(tmp_path.iterdir()) == []


def test_rejects_keep_whatever_the_record_was(tmp_path: Path) -> None:
    records = [{"text": "é\u2028"}, {"text": "half \ud800"}, [1, None], 10**30, None]
    with write_rejects(tmp_path / "rejects.jsonl") as rejects:
        for number, record in enumerate(records, 1):
            rejects.write(Reject("rows.json", number, None, "reason", "detail", record))
    lines = (tmp_path / "rejects.jsonl").read_bytes().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["record"] for row in rows] == records
    assert rows[0].keys() == {"file", "row", "id", "reason", "detail", "record", "kept"}
