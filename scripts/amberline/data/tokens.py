"""Token folders: Arrow files in the stream format that `datasets` maps into memory.

The manifest that makes a token folder complete is written by the program, last.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from amberline.core.files import whole_folder

if TYPE_CHECKING:
    from datasets import Dataset

_TOKENS = pa.list_(pa.int32())

IGNORED = -100  # a label without loss, as in transformers

# Rows of conversations and of the supervised finetune. Labels are -100 where there is no loss, and not shifted.
SEQUENCES = pa.schema([("id", pa.string()), ("input_ids", _TOKENS), ("labels", _TOKENS), ("length", pa.int32())])

# Rows of preference pairs; `length` is that of both sequences together.
PAIRS = pa.schema(
    [
        ("id", pa.string()),
        ("prompt_length", pa.int32()),
        ("chosen_input_ids", _TOKENS),
        ("chosen_labels", _TOKENS),
        ("rejected_input_ids", _TOKENS),
        ("rejected_labels", _TOKENS),
        ("length", pa.int32()),
    ]
)

# Rows of reference log-probabilities.
LOGPS = pa.schema([("id", pa.string()), ("chosen_logp", pa.float64()), ("rejected_logp", pa.float64())])

BATCH_ROWS = 1000
SHARD_BYTES = 512 * 2**20


class BadTokens(Exception):
    """A folder is no token folder."""


class TokenWriter:
    """Writes rows into `shard-00000.arrow`, ... of a folder, a batch at a time."""

    def __init__(self, folder: Path, schema: pa.Schema, shard_bytes: int = SHARD_BYTES) -> None:
        self.rows = 0
        self._folder = folder
        self._schema = schema
        self._shard_bytes = shard_bytes
        self._waiting: list[Mapping[str, Any]] = []
        self._shards = 0
        self._open_shard()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row; sequences of tokens may be lists or integer arrays."""
        self._waiting.append(row)
        if len(self._waiting) == BATCH_ROWS:
            self._write_waiting()

    def write_columns(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add many rows, given as columns of equal length."""
        self._write_waiting()
        arrays = [pa.array(columns[field.name], type=field.type) for field in self._schema]
        self._write_batch(pa.record_batch(arrays, schema=self._schema))

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Add many rows, given as an Arrow batch of the schema."""
        self._write_waiting()
        self._write_batch(batch)

    def _write_waiting(self) -> None:
        if self._waiting:
            batch = pa.RecordBatch.from_pylist(self._waiting, schema=self._schema)
            self._waiting = []
            self._write_batch(batch)

    def _write_batch(self, batch: pa.RecordBatch) -> None:
        if self._sink.tell() >= self._shard_bytes:
            self._close_shard()
            self._open_shard()
        self._stream.write_batch(batch)
        self.rows += batch.num_rows

    def _open_shard(self) -> None:
        self._sink = pa.OSFile(str(self._folder / f"shard-{self._shards:05d}.arrow"), "wb")
        self._stream = pa.ipc.new_stream(self._sink, self._schema)
        self._shards += 1

    def _close_shard(self) -> None:
        self._stream.close()
        self._sink.close()

    def _end(self) -> None:
        self._write_waiting()
        self._close_shard()


@contextmanager
def write_tokens(folder: Path, schema: pa.Schema, shard_bytes: int = SHARD_BYTES) -> Iterator[TokenWriter]:
    """Write a token folder (SEQUENCES, PAIRS or LOGPS), atomically; memory is that of one batch."""
    with whole_folder(folder) as partial:
        writer = TokenWriter(partial, schema, shard_bytes)
        yield writer
        writer._end()


def token_files(folder: Path) -> list[Path]:
    """The data files of a token folder, in order. Raises BadTokens if there is none."""
    files = sorted(folder.glob("shard-*.arrow"))
    if not files:
        raise BadTokens(f"{folder} is no token folder: there is no shard-00000.arrow in it; make that stage again")
    return files


def open_tokens(folder: Path) -> "Dataset":
    """A token folder as a dataset, mapped into memory and not copied. Raises BadTokens."""
    from datasets import Dataset, concatenate_datasets

    try:
        return concatenate_datasets([Dataset.from_file(str(file)) for file in token_files(folder)])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(folder, error) from None


def check_tokens(folder: Path, vocabulary: int) -> None:
    """Raise BadTokens unless a folder holds whole rows of ids below `vocabulary`. Reads everything once.

    A GPU would only say that an assertion failed, long after the step that met such an id.
    """
    table = open_tokens(folder).data.table
    try:
        table.validate(full=True)
    except pa.ArrowException as error:
        raise _damaged(folder, error) from None
    for field in table.schema:
        if field.type != _TOKENS:
            continue
        found = pc.min_max(pc.list_flatten(table[field.name])).as_py()
        lowest = IGNORED if field.name.endswith("labels") else 0
        if found["min"] is not None and not lowest <= found["min"] <= found["max"] < vocabulary:
            raise BadTokens(
                f"{folder}: {field.name} are from {found['min']} to {found['max']}, and the model has {vocabulary} "
                "tokens. Fix: make the tokens again, with the model's own tokenizer"
            )


def _damaged(folder: Path, error: Exception) -> BadTokens:
    return BadTokens(f"{folder} cannot be read as tokens ({' '.join(str(error).split())}): make that stage again")
