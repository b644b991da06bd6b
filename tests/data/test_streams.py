import gzip
import json
import lzma
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amberline.data import streams
from amberline.data.streams import BadFile, pieces, read_piece, read_records, write_array

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
records = st.lists(st.dictionaries(texts, values, max_size=4), max_size=12)


def read(path: Path) -> list:
    got = list(read_records(path))
    assert [record.number for record in got] == list(range(1, len(got) + 1))
    return [record.value for record in got]


@given(
    rows=records | st.lists(values, max_size=6),
    indent=st.sampled_from([None, 0, 1, 4]),
    ascii_only=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_array_of_any_layout_is_read_as_json_reads_it(tmp_path_factory, rows, indent, ascii_only, chunk) -> None:
    path = tmp_path_factory.mktemp("array") / "rows.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    path.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        # Windows of a few bytes cut every token somewhere.
        patch.setattr(streams, "CHUNK_BYTES", chunk)
        assert read(path) == rows


@given(rows=records.filter(bool), ending=st.sampled_from(["\n", "\r\n", "\n\n"]), chunk=st.integers(1, 40))
def test_json_lines_are_read(tmp_path_factory, rows, ending, chunk) -> None:
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    path.write_bytes(ending.join(json.dumps(row) for row in rows).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "CHUNK_BYTES", chunk)
        assert [value for _, value in read_records(path)] == rows


@given(rows=records, count=st.integers(1, 20))
def test_written_arrays_come_back_whole_and_in_pieces(tmp_path_factory, rows, count) -> None:
    path = tmp_path_factory.mktemp("written") / "rows.json"
    with write_array(path) as writer:
        for row in rows:
            writer.write(row)
    assert json.loads(path.read_text(encoding="utf-8")) == rows
    assert len(path.read_bytes().split(b"\n")) == max(len(rows), 0) + 3
    assert read(path) == rows
    cut = pieces(path, count)
    assert len(cut) <= count
    got = [record for piece in cut for record in read_piece(path, piece)]
    assert [record.value for record in got] == rows
    assert [record.number for record in got] == list(range(1, len(rows) + 1))
    assert sum(piece.rows for piece in cut) == len(rows)


def test_pieces_are_of_about_equal_size(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    with write_array(path) as writer:
        for number in range(1000):
            writer.write({"id": number, "text": "x" * 100})
    sizes = [piece.end - piece.start for piece in pieces(path, 8)]
    assert len(sizes) == 8
    assert max(sizes) - min(sizes) < 400


@pytest.mark.parametrize("layout", ["indented", "one line", "lines", "xz"])
def test_other_layouts_are_one_piece(tmp_path: Path, layout: str) -> None:
    rows = [{"id": str(number)} for number in range(5)]
    path = tmp_path / "rows"
    match layout:
        case "indented":
            path.write_text(json.dumps(rows, indent=2))
        case "one line":
            path.write_text(json.dumps(rows))
        case "lines":
            path.write_text("\n".join(map(json.dumps, rows)))
        case "xz":
            path.write_bytes(lzma.compress(json.dumps(rows).encode()))
    (only,) = pieces(path, 4)
    assert [value for _, value in read_piece(path, only)] == rows


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress], ids=["xz", "gz"])
def test_compression_is_told_by_content(tmp_path: Path, pack) -> None:
    rows = [{"id": str(number), "text": "é" * 100} for number in range(50)]
    path = tmp_path / "named.json"
    path.write_bytes(pack("\n".join(json.dumps(row) for row in rows).encode()))
    assert read(path) == rows


def test_text_that_looks_like_structure_is_text(tmp_path: Path) -> None:
    rows = [{"value": '},\n{"id": "x"}]'}, {"value": '\u2028 \u0085 \\ " \\u0041 \0'}]
    path = tmp_path / "rows.json"
    with write_array(path) as writer:
        for row in rows:
            writer.write(row)
    assert json.loads(path.read_bytes()) == rows
    assert [value for piece in pieces(path, 3) for _, value in read_piece(path, piece)] == rows


def test_memory_is_that_of_a_row_not_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[" + ",".join(json.dumps({"id": number, "text": "x" * 1000}) for number in range(20_000)) + "]")
    tracemalloc.start()
    count = sum(1 for _ in read_records(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert path.stat().st_size > 20e6
    assert peak < 8e6


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    """So a killed program leaves a hidden part at most, which the next run overwrites."""
    path = tmp_path / "rows.json"
    with write_array(path) as writer:
        writer.write({"id": "1"})
        assert not path.exists()
        assert [part.name for part in tmp_path.iterdir()] == [".rows.json.partial"]
    assert [part.name for part in tmp_path.iterdir()] == ["rows.json"]


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    with pytest.raises(RuntimeError), write_array(path) as writer:
        writer.write({"id": "1"})
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


FAULTS = {
    "missing": (None, 0, "no such file"),
    "empty": (b"", 0, "empty"),
    "white space only": (b" \n\n", 0, "empty"),
    "cut in a string": (b'[{"id": "a"}, {"id": "b', 2, "cut short"),
    "cut in a number": (b'[{"id": "a"}, 12', 2, "cut short"),
    "cut after a row": (b'[{"id": "a"}', 1, "cut short"),
    "cut after a comma": (b'[{"id": "a"},', 2, "cut short"),
    "cut in an escape": (b'[{"id": "a\\u00', 1, "cut short"),
    "cut in a keyword": (b'[{"id": tru', 1, "cut short"),
    "no comma": (b'[{"id": "a"} {"id": "b"}]', 1, "expected , or ]"),
    "comma before the end": (b'[{"id": "a"},]', 2, "not JSON"),
    "single quotes": (b"[{'id': 'a'}]", 1, "not JSON"),
    "comment": (b'[{"id": "a"}, // no\n {"id": "b"}]', 2, "not JSON"),
    "NUL byte": (b'[{"id": "a"}, {"id": "b\0"}]', 2, "control character"),
    "NUL byte between rows": (b'[{"id": "a"},\0 {"id": "b"}]', 2, "not JSON"),
    "newline in a string": (b'[{"id": "a\nb"}]', 1, "control character"),
    "not UTF-8": (b'[{"id": "a"}, {"id": "\xe9t\xe9"}]', 2, "not UTF-8 (0xe9)"),
    "not UTF-8, lines": (b'{"id": "a"}\n{"id": "b"}\n{"id": "\xff"}\n', 3, "not UTF-8 (0xff)"),
    "cut in a character": ('[{"id": "é'.encode()[:-1], 1, "not UTF-8"),
    "byte order mark": (b'\xef\xbb\xbf[{"id": "a"}]', 0, "byte order mark"),
    "UTF-16": ('[{"id": "a"}]'.encode("utf-16"), 0, "UTF-16"),
    "NaN": (b'[{"id": "a"}, {"id": NaN}]', 2, "NaN is not JSON"),
    "Infinity": (b'[{"id": -Infinity}]', 1, "-Infinity is not JSON"),
    "key twice": (b'[{"id": "a"}, {"id": "b", "id": "c"}]', 2, "'id' stands twice"),
    "key twice, lines": (b'{"id": "a"}\n{"id": "b", "id": "c"}\n', 2, "'id' stands twice"),
    "too deep": (b"[" * 200_000, 1, "nested too deep"),
    "number of 5000 digits": (b'[{"id": ' + b"9" * 5000 + b"}]", 1, "integer string"),
    "bad escape": (b'[{"id": "a\\x"}]', 1, "not JSON: invalid"),
    "bad unicode escape": (b'[{"id": "a\\u00zz"}]', 1, "not JSON: invalid"),
    "two arrays": (b'[{"id": "a"}]\n[{"id": "b"}]', 1, "more text follows"),
    "an object over lines": (b'{\n "rows": []\n}\n', 1, "not complete on its line"),
    "line cut short": (b'{"id": "a"}\n{"id": "b', 2, "cut short"),
    "line in the middle cut short": (b'{"id": "a"}\n{"id": "b\n{"id": "c"}\n', 2, "not complete on its line"),
    "two rows on a line": (b'{"id": "a"} {"id": "b"}\n{"id": "c"}\n', 1, "not JSON: extra data"),
    "git-LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", 0, "git-LFS pointer"),
    "web page": (b"\n<!DOCTYPE html><html>404</html>", 0, "web page"),
    "zip": (b"PK\x03\x04...", 0, "zip archive"),
    "zstd that is none": (b"\x28\xb5\x2f\xfd...", 1, "cut short or damaged"),
    "Parquet that is none": (b"PAR1...", 0, "damaged or cut short"),
    "Arrow": (b"ARROW1...", 0, "Arrow file"),
    "plain text": (b"hello", 1, "starts with"),
    "xz cut short": (lzma.compress(b'{"id": "a"}\n' * 2000)[:-40], None, "cut short"),
    "xz damaged": (lzma.compress(b'{"id": "a"}\n' * 2000).replace(b"\x00\x00", b"\x00\x07", 9), None, "damaged"),
    "gz cut short": (gzip.compress(b'{"id": "a"}\n' * 2000)[:-40], None, "cut short"),
    "gz damaged": (gzip.compress(bytes(range(256)) * 99)[:60] + b"\x07" * 40, None, "damaged"),
}


@pytest.mark.parametrize("chunk", [7, 2**20])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_file_and_row(tmp_path: Path, monkeypatch, fault: str, chunk: int) -> None:
    content, row, what = FAULTS[fault]
    path = tmp_path / "rows.json"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(streams, "CHUNK_BYTES", chunk)
    with pytest.raises(BadFile) as caught:
        list(read_records(path))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert what in message
    if row is not None:
        assert caught.value.row == row
    if row:
        assert f"row {row}:" in message
    assert caught.value.fix


def test_a_folder_is_its_files_one_behind_another(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no file in this folder"):
        list(read_records(tmp_path))
    (tmp_path / "b").mkdir()
    (tmp_path / "b/1.json").write_text('[{"id": 3}]')
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n\n{"id": 2}\n')
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "c.json").write_text("[]")
    # A blank line counts, as everywhere.
    assert list(read_records(tmp_path)) == [(1, {"id": 1}), (3, {"id": 2}), (4, {"id": 3})]
    (tmp_path / "c.json").write_text('[{"id": 4')
    with pytest.raises(BadFile, match=r"c\.json, row 1: the file ends in the middle"):
        list(read_records(tmp_path))


def test_an_empty_array_holds_no_records(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b" [ \r\n ] \n")
    assert read(path) == []


def test_a_damaged_line_in_a_piece_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'[\n{"id": "a"},\n{"id": "b},\n{"id": "c"}\n]\n')
    with pytest.raises(BadFile, match="row 2: not one JSON record on its line"):
        [list(read_piece(path, piece)) for piece in pieces(path, 3)]


def test_a_long_row_is_read_in_linear_time(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"id": "a", "text": "y" * 1_000_000}, {"id": "b"}]))
    fills = 0
    fill = streams._Text.fill

    def counted(text: streams._Text) -> None:
        nonlocal fills
        fills += 1
        fill(text)

    monkeypatch.setattr(streams, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(streams._Text, "fill", counted)
    assert [len(value) for value in read(path)] == [2, 1]
    # The row is parsed anew with each window: 1,000 windows of 1,000 bytes would be quadratic, doubling ones are not.
    assert fills < 20
