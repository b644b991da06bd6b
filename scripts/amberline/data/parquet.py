"""Rows of a Parquet file as JSON values, a few at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from amberline.data.streams import BadFile, Record

BATCH_ROWS = 256
BUFFER_BYTES = 2**20  # read of a column at a time


def read_parquet(path: Path) -> Iterator[Record]:
    """Yield the rows of a Parquet file; memory is that of some rows and of a part of each column.

    Values that JSON does not have become texts, inside of lists and structs too: dates as Python prints them, bytes as
    UTF-8. Raises BadFile.
    """
    row = 0
    try:
        with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            schema = file.schema_arrow
            if twins := sorted({name for name in schema.names if schema.names.count(name) > 1}):
                raise BadFile(path, 0, f"there are two columns {twins[0]!r}", "rename one of them.")
            odd = {field.name for field in schema if not _is_json(field.type)}
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                for value in _rows(path, batch, row):
                    row += 1
                    yield Record(row, {name: _json(each) if name in odd else each for name, each in value.items()})
    except (pa.ArrowException, OSError) as error:
        raise BadFile(
            path, row and row + 1, f"it is damaged or cut short ({_first_line(error)})", "get it again."
        ) from None


def _rows(path: Path, batch: pa.RecordBatch, before: int) -> Iterator[dict[str, Any]]:
    """The rows of a batch, behind `before` others."""
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError) as error:  # such as text that is not UTF-8, and dates after the year 9999
        row = before + _first_unreadable(batch) + 1
        fix = "correct the row, or get the file again."
        raise BadFile(path, row, f"a value cannot be read ({_first_line(error)})", fix) from None
    yield from rows


def _first_unreadable(batch: pa.RecordBatch) -> int:
    """The first row of a batch that has no values in Python."""
    for index in range(batch.num_rows):
        try:
            batch.slice(index, 1).to_pylist()
        except (ValueError, OverflowError):
            return index
    return 0


def _is_json(type_: pa.DataType) -> bool:
    """Whether JSON has values of a type."""
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return _is_json(type_.value_type)
    if pa.types.is_dictionary(type_):
        return _is_json(type_.value_type)
    if pa.types.is_struct(type_):
        return all(_is_json(field.type) for field in type_)
    of_json = (
        *(pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_float32, pa.types.is_float64),
        *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    )
    return any(is_of(type_) for is_of in of_json)


def _json(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, dict):
        return {key: _json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
