from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amberline.data.tokens import LOGPS, PAIRS, SEQUENCES, BadTokens, open_tokens, token_files, write_tokens

tokens = st.lists(st.integers(-100, 2**31 - 1), max_size=6)


@given(rows=st.lists(st.tuples(tokens, tokens), max_size=8), shard_bytes=st.sampled_from([1, 500, 2**20]))
def test_rows_come_back_from_memory_mapped_shards(tmp_path_factory, rows, shard_bytes) -> None:
    folder = tmp_path_factory.mktemp("tokens") / "folder"
    written = [
        {"id": str(number), "input_ids": ids, "labels": np.array(labels, np.int32), "length": len(ids)}
        for number, (ids, labels) in enumerate(rows)
    ]
    with write_tokens(folder, SEQUENCES, shard_bytes) as writer:
        for row in written:
            writer.write(row)
            writer._write_waiting()
    assert writer.rows == len(rows)
    dataset = open_tokens(folder)
    assert dataset.data.schema.types == SEQUENCES.types
    assert dataset.to_list() == [{**row, "labels": list(row["labels"])} for row in written]


def test_columns_and_rows_may_alternate(tmp_path: Path) -> None:
    with write_tokens(tmp_path / "t", LOGPS) as writer:
        writer.write({"id": "a", "chosen_logp": -1.5, "rejected_logp": -2.5})
        writer.write_columns({"id": ["b", "c"], "chosen_logp": [1, 2], "rejected_logp": np.array([3.0, 4.0])})
        writer.write({"id": "d", "chosen_logp": 0, "rejected_logp": 0})
    assert open_tokens(tmp_path / "t")["id"][:] == ["a", "b", "c", "d"]


def test_many_rows_go_into_several_shards_in_order(tmp_path: Path) -> None:
    row = {"input_ids": [7] * 50, "labels": [-100] * 50, "length": 50}
    with write_tokens(tmp_path / "t", SEQUENCES, shard_bytes=300_000) as writer:
        for number in range(3500):
            writer.write({"id": str(number), **row})
    names = [file.name for file in token_files(tmp_path / "t")]
    assert names == ["shard-00000.arrow", "shard-00001.arrow", "shard-00002.arrow", "shard-00003.arrow"]
    assert open_tokens(tmp_path / "t")["id"][:] == [str(number) for number in range(3500)]


def test_an_empty_folder_of_tokens_is_a_dataset(tmp_path: Path) -> None:
    with write_tokens(tmp_path / "t", PAIRS):
        pass
    assert open_tokens(tmp_path / "t").column_names == PAIRS.names
    assert len(open_tokens(tmp_path / "t")) == 0


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(pa.ArrowInvalid), write_tokens(tmp_path / "t", SEQUENCES) as writer:
        writer.write({"id": "a", "input_ids": [2**31], "labels": [], "length": 1})
    assert list(tmp_path.iterdir()) == []


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadTokens, match=r"no shard-00000\.arrow"):
        open_tokens(tmp_path)
