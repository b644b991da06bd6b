"""Parquet files as rows: their types, their faults, and the memory that reading takes."""

import datetime
import decimal
import io
import json
import os
import random
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amberline.data.streams import BadFile, pieces, read_piece, read_records

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "name": "Bo"}]


def written(path: Path, table: pa.Table, **options: object) -> Path:
    pq.write_table(table, path, **options)
    return path


def values(path: Path) -> list:
    return [record.value for record in read_records(path)]


def test_rows_are_json_values_whatever_the_columns_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "messages": pa.array([TURNS, None]),
            "large": pa.array(["x", None], pa.large_string()),
            "category": pa.array(["a", "a"]).dictionary_encode(),
            "score": pa.array([1.5, None], pa.float32()),
            "fixed": pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)),
            "day": pa.array([datetime.date(2024, 2, 29), None]),
            "price": pa.array([decimal.Decimal("1.50"), None]),
            "image": pa.array([{"bytes": b"\x89PNG"}, None]),
            "chat": pa.array([[{"text": b"hello", "at": datetime.datetime(2024, 2, 29, 12)}], None]),
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        }
    )
    first, second = values(written(tmp_path / "rows.parquet", table))
    assert first == {
        "messages": [{**TURNS[0], "name": None}, TURNS[1]],
        **{"large": "x", "category": "a", "score": 1.5, "fixed": [1, 2], "day": "2024-02-29", "price": "1.50"},
        **{"image": {"bytes": "\\x89PNG"}, "map": [["k", 1]], "chat": [{"text": "hello", "at": "2024-02-29 12:00:00"}]},
    }
    assert second["day"] is None and second["messages"] is None
    json.dumps([first, second])


def test_rows_are_numbered_over_row_groups(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.parquet", pa.table({"id": list(range(1000))}), row_group_size=7)
    assert list(read_records(path)) == [(number + 1, {"id": number}) for number in range(1000)]
    (whole,) = pieces(path, 4)
    assert len(list(read_piece(path, whole))) == 1000


def test_a_file_without_rows_holds_no_records(tmp_path: Path) -> None:
    assert values(written(tmp_path / "rows.parquet", pa.table({"id": pa.array([], pa.int64())}))) == []


def test_a_text_that_is_not_utf_8_is_named_with_its_row(tmp_path: Path) -> None:
    texts = pa.array([b"good"] * 300 + [b"b\xffd"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())
    path = written(tmp_path / "rows.parquet", pa.table({"text": column}))
    with pytest.raises(BadFile, match=r"rows\.parquet, row 301: a value cannot be read \(.*utf-8"):
        values(path)


def test_a_date_that_python_has_not_is_named_with_its_row(tmp_path: Path) -> None:
    days = pa.array([0] * 299 + [10**7], pa.int32()).cast(pa.date32())
    with pytest.raises(BadFile, match=r"rows\.parquet, row 300: a value cannot be read \(.*Fix: correct the row"):
        values(written(tmp_path / "rows.parquet", pa.table({"day": days})))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["id", "id"])
    with pytest.raises(BadFile, match="there are two columns 'id'"):
        values(written(tmp_path / "rows.parquet", table))


@pytest.mark.parametrize("kind", ["parquet", "zstd"])
def test_damage_is_one_message_or_other_rows(tmp_path: Path, kind: str) -> None:
    rows = [{"id": str(number), "messages": TURNS} for number in range(300)]
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), target)
    packed = pa.compress("\n".join(map(json.dumps, rows)).encode(), codec="zstd", asbytes=True)
    content = target.getvalue() if kind == "parquet" else packed
    path = tmp_path / "rows"
    for seed in range(60):
        source = random.Random(seed)
        damaged = bytearray(content[: source.randrange(4, len(content))] if seed % 3 == 0 else content)
        for _ in range(seed % 3 * 4):
            damaged[source.randrange(4, len(damaged))] ^= 1 << source.randrange(8)
        path.write_bytes(damaged)
        try:
            values(path)
        except BadFile as fault:
            assert str(fault).startswith(f"{path}")
        else:
            assert seed % 3, "what is cut short is never read to an end"


@pytest.mark.parametrize("kind", ["parquet", "zstd"])
def test_memory_is_that_of_some_rows(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rows"
    rows = [{"text": os.urandom(1000).hex()} for _ in range(10_000)]
    if kind == "parquet":
        written(path, pa.Table.from_pylist(rows))
    else:
        path.write_bytes(pa.compress("\n".join(map(json.dumps, rows)).encode(), codec="zstd", asbytes=True))
    del rows
    usual, watched = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(watched)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_records(path)) == 10_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)
    assert path.stat().st_size > 9e6
    assert peak + watched.max_memory() < 16e6
