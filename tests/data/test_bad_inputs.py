"""Bad inputs, one by one, through the programs that would meet them: a clear error, or a counted and listed reject.

`Fails` has the row that the message names (0: the file as a whole, -1: any), `Rejects` the row and the reason of the
only reject, `Reads` the number of rows that are read although they look odd. A failed program leaves nothing behind.
"""

import gzip
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import acquire
import mix
import select_pairs
from data.conftest import mix_settings

GOOD = {"id": "good_0", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
EVOL = {"idx": "evol", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
PAIR = {
    "prompt": "p",
    "response_0": "a",
    "response_1": "b",
    "is_response_0_safe": True,
    "is_response_1_safe": False,
    "better_response_id": 0,
    "safer_response_id": 0,
}

# A row that every program takes.
ROW = {**GOOD, **PAIR}


@dataclass(frozen=True)
class Fails:
    row: int
    what: str


@dataclass(frozen=True)
class Rejects:
    row: int
    reason: str


@dataclass(frozen=True)
class Reads:
    rows: int


Outcome = Fails | Rejects | Reads


def array(*rows: object) -> bytes:
    return json.dumps(rows).encode()


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def bad(**changes: object) -> bytes:
    """An array whose second row is changed; `...` removes the key."""
    changed = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    return array(GOOD, changed, {**GOOD, "id": "last_0"})


def bad_turn(turn: object) -> bytes:
    return bad(conversations=[GOOD["conversations"][0], turn])


def bad_pair(**changes: object) -> bytes:
    changed = {key: value for key, value in {**PAIR, **changes}.items() if value is not ...}
    return lines(PAIR, changed, PAIR)


TEXT = array(ROW, ROW).decode()

# Faults of the file, which every program meets in the same way.
FILES: dict[str, tuple[bytes, Outcome]] = {
    "empty file": (b"", Fails(0, "empty")),
    "empty array": (b"[]", Fails(0, "there is no")),
    "white space": (b"\n \n", Fails(0, "empty")),
    "JSON cut in a row": (TEXT[:-60].encode(), Fails(2, "cut short")),
    "JSON cut between rows": (array(ROW)[:-1] + b",", Fails(2, "cut short")),
    "closing bracket missing": (array(ROW)[:-1], Fails(1, "cut short")),
    "NUL byte": (TEXT.replace("hello", "he\0lo", 1).encode(), Fails(1, "control character")),
    "invalid UTF-8": (TEXT.encode().replace(b"hello", b"h\xe9llo", 1), Fails(1, "not UTF-8")),
    "Latin-1 in the last row": (TEXT.encode()[::-1].replace(b"olleh", b"oll\xe9h", 1)[::-1], Fails(2, "not UTF-8")),
    "byte order mark": (b"\xef\xbb\xbf" + TEXT.encode(), Fails(0, "byte order mark")),
    "UTF-16": (TEXT.encode("utf-16"), Fails(0, "UTF-16")),
    "UTF-32": (TEXT.encode("utf-32"), Fails(0, "UTF-32")),
    "NaN": (TEXT.replace('"hello"', "NaN", 1).encode(), Fails(1, "NaN is not JSON")),
    "duplicate keys": (
        TEXT.replace('"value": "hello"', '"value": "a", "value": "b"', 1).encode(),
        Fails(1, "stands twice"),
    ),
    "nested arrays": (b"[" * 100_000 + b"]" * 100_000, Fails(1, "nested too deep")),
    "an object of rows": (json.dumps({"rows": [ROW]}, indent=1).encode(), Fails(1, "not complete on its line")),
    "two files glued": (array(ROW) + array(ROW), Fails(1, "more text follows")),
    "git-LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n",
        Fails(0, "git-LFS pointer"),
    ),
    "web page": (b"<!doctype html><title>401</title>", Fails(0, "web page")),
    "xz cut short": (lzma.compress(lines(ROW) * 500)[:-30], Fails(-1, "cut short")),
    "gz cut short": (gzip.compress(lines(ROW) * 500)[:-30], Fails(-1, "cut short")),
    "zip": (b"PK\x03\x04 and so on", Fails(0, "zip archive")),
    "CSV": (b"id,text\n1,hello\n", Fails(1, "save it as JSON lines, a JSON array or Parquet")),
    "Parquet, packed": (gzip.compress(b"PAR1\x15\x04\xff\xfe"), Fails(0, "a Parquet file that was packed")),
    "an array of strings": (array("a", "b"), Fails(-1, "row")),
    "an array of arrays": (array([ROW], [ROW]), Fails(-1, "row")),
    "one string": (b'"hello"', Fails(1, "starts with")),
}

# Faults of a row, as `mix` meets them in ShareGPT rows.
CONVERSATIONS: dict[str, tuple[bytes, Outcome]] = {
    "a row that is a string": (array(GOOD, "x"), Rejects(2, "row_not_an_object")),
    "a row that is null": (array(GOOD, None), Rejects(2, "row_not_an_object")),
    "a row that is an array": (array(GOOD, [GOOD]), Rejects(2, "row_not_an_object")),
    "no id": (bad(id=...), Rejects(2, "id_missing")),
    "id null": (bad(id=None), Rejects(2, "id_wrong_type")),
    "id true": (bad(id=True), Rejects(2, "id_wrong_type")),
    "id a fraction": (bad(id=1.5), Rejects(2, "id_wrong_type")),
    "id an object": (bad(id={}), Rejects(2, "id_wrong_type")),
    "no conversations": (bad(conversations=...), Rejects(2, "conversations_missing")),
    "conversations null": (bad(conversations=None), Rejects(2, "conversations_wrong_type")),
    "conversations a string": (bad(conversations="hi"), Rejects(2, "conversations_wrong_type")),
    "conversations an object": (bad(conversations={}), Rejects(2, "conversations_wrong_type")),
    "no turns": (bad(conversations=[]), Rejects(2, "conversations_empty")),
    "a turn null": (bad_turn(None), Rejects(2, "turn_not_an_object")),
    "a turn a string": (bad_turn("hi"), Rejects(2, "turn_not_an_object")),
    "a turn an array": (bad_turn([["human", "hi"]]), Rejects(2, "turn_not_an_object")),
    "a turn without a value": (bad_turn({"from": "gpt"}), Rejects(2, "turn_key_missing")),
    "a turn without a speaker": (bad_turn({"value": "hi"}), Rejects(2, "turn_key_missing")),
    "a number for a text": (bad_turn({"from": "gpt", "value": 7}), Rejects(2, "turn_wrong_type")),
    "null for a text": (bad_turn({"from": "gpt", "value": None}), Rejects(2, "turn_wrong_type")),
    "a number for a speaker": (bad_turn({"from": 1, "value": "hi"}), Rejects(2, "turn_wrong_type")),
    "a lone surrogate in a text": (bad_turn({"from": "gpt", "value": "a\ud83d"}), Rejects(2, "lone_surrogate")),
    "a lone surrogate in an id": (bad(id="\udc00"), Rejects(2, "lone_surrogate")),
    "a lone surrogate as speaker": (bad_turn({"from": "\ud83d", "value": "a"}), Rejects(2, "lone_surrogate")),
    "wrong columns": (
        array({"question": "q", "answer": "a"}, {"question": "q", "answer": "b"}),
        Fails(-1, "id_missing"),
    ),
    "evol rows as ShareGPT": (array(EVOL, EVOL), Fails(-1, "there is no 'id'")),
    "preference rows as ShareGPT": (lines(PAIR, PAIR), Fails(-1, "no row can be used")),
    # No faults, though they look like it:
    "a row of 50 MB": (bad_turn({"from": "gpt", "value": "y" * 50_000_000}), Reads(3)),
    "10,000 turns": (bad(conversations=GOOD["conversations"] * 5000), Reads(3)),
    "empty turns": (bad_turn({"from": "gpt", "value": ""}), Reads(3)),
    "the same id twice": (array(GOOD, GOOD), Reads(2)),
    "a whole number as id": (bad(id=12), Reads(3)),
    "a NUL that is escaped": (bad_turn({"from": "gpt", "value": "a\0b"}), Reads(3)),
    "unknown speakers": (bad_turn({"from": "narrator", "value": "a"}), Reads(3)),
    "special tokens": (bad_turn({"from": "gpt", "value": "</s><s><unk>"}), Reads(3)),
    "CRLF": (json.dumps([GOOD, GOOD], indent=1).replace("\n", "\r\n").encode(), Reads(2)),
    "blank lines": (lines(GOOD) + b"\n\r\n" + lines(GOOD), Reads(2)),
    "pairs of surrogates": (bad_turn({"from": "gpt", "value": "😀"}), Reads(3)),
}

# Faults of a row, as `select_pairs` meets them.
PAIRS: dict[str, tuple[bytes, Outcome]] = {
    "both safe": (bad_pair(is_response_1_safe=True), Rejects(2, "both_safe")),
    "both unsafe": (bad_pair(is_response_0_safe=False), Rejects(2, "both_unsafe")),
    "safe is null": (bad_pair(is_response_0_safe=None), Rejects(2, "safe_wrong_type")),
    "safe is a string": (bad_pair(is_response_0_safe="True"), Rejects(2, "safe_wrong_type")),
    "safe is a number": (bad_pair(is_response_0_safe=1), Rejects(2, "safe_wrong_type")),
    "a response null": (bad_pair(response_1=None), Rejects(2, "text_wrong_type")),
    "a prompt that is a list": (bad_pair(prompt=["p"]), Rejects(2, "text_wrong_type")),
    "a lone surrogate": (bad_pair(response_0="\ud800"), Rejects(2, "lone_surrogate")),
    "a column missing": (bad_pair(safer_response_id=...), Rejects(2, "column_missing")),
    "a row that is null": (lines(PAIR, None), Rejects(2, "row_not_an_object")),
    "wrong columns": (lines({"prompt": "p", "chosen": "a", "rejected": "b"}), Fails(1, "columns are missing")),
    "no row with one safe response": (lines({**PAIR, "is_response_1_safe": True}), Fails(0, "exactly one safe")),
    "v1 rows": (lines({**PAIR, "response_0_harm_category": {}}), Fails(1, "PKU-SafeRLHF v1")),
    "v1 rows in the middle": (bad_pair(response_1_harm_category={}), Fails(2, "PKU-SafeRLHF v1")),
    "equal responses": (bad_pair(response_1="a"), Reads(3)),
    "empty prompt": (bad_pair(prompt=""), Reads(3)),
    "CRLF": (lines(PAIR, PAIR).replace(b"\n", b"\r\n"), Reads(2)),
}


class Run:
    """One program on one bad input: what it said, and what it left."""

    def __init__(self, file: Path, outputs: dict[str, Path], program: Callable[[], None]) -> None:
        self.file, self.outputs = file, outputs
        self.message: str | None = None
        try:
            program()
        except SystemExit as stop:
            assert isinstance(stop.code, str), "programs end with one message"
            self.message = stop.code

    def fails(self, expected: Fails, named: str) -> None:
        assert self.message is not None, "the program went on"
        assert ". Fix: " in self.message
        assert "\n" not in self.message
        assert expected.what in self.message
        if expected.row == 0:
            assert f"{named}: " in self.message
        elif expected.row > 0:
            assert f"{named}, row {expected.row}: " in self.message
        else:
            assert named in self.message and "row " in self.message
        folder = next(iter(self.outputs.values())).parent
        left = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
        assert left == [], "nothing is left that a later stage could take, nor parts of it"

    def accounts(self, rows_in: int, rejected: dict[str, int]) -> list[dict]:
        assert self.message is None, self.message
        (rows,) = [u for u in json.loads(self.outputs["funnel"].read_bytes())["counts"] if u["unit"] == "rows"]
        assert (rows["in"], rows["rejected"]) == (rows_in, rejected)
        assert rows["out"] == rows_in - sum(rejected.values())
        return [json.loads(line) for line in self.outputs["rejects"].read_text(encoding="utf-8").split("\n")[:-1]]

    def rejects(self, expected: Rejects, rows_in: int) -> None:
        listed = [row for row in self.accounts(rows_in, {expected.reason: 1}) if not row["kept"]]
        assert [(row["file"], row["row"], row["reason"]) for row in listed] == [
            (self.file.name, expected.row, expected.reason)
        ]
        assert listed[0]["detail"]


MIX = json.dumps(mix_settings("sharegpt", "evol_instruct"))
SELECTION = json.dumps({"select": "exactly_one_safe", "formats": ["pku_saferlhf_v0"]})


def run_mix(raw, tmp_path: Path, content: bytes, bad_source: str = "sharegpt") -> Run:
    good = {"sharegpt": array(GOOD), "evol_instruct": array(EVOL)}
    files = {name: raw(f"{name}.json", content if name == bad_source else rows) for name, rows in good.items()}
    made = {name: tmp_path / "made" / name for name in ("mix_file", "heldout", "funnel", "rejects")}
    return Run(files[bad_source], made, lambda: mix.main(source=list(files.values()), settings=MIX, **made))


def run_pairs(raw, tmp_path: Path, content: bytes) -> Run:
    file = raw("pku_train.jsonl.xz", content)
    made = {name: tmp_path / "made" / name for name in ("pairs", "jsonl", "funnel", "rejects")}
    return Run(file, made, lambda: select_pairs.main(rows=[file], settings=SELECTION, **made))


def run_acquire(tmp_path: Path, format_name: str, content: bytes) -> Run:
    file = tmp_path / "copy"
    file.write_bytes(content)
    nowhere = dict.fromkeys(("repository", "revision", "file", "files", "bytes", "sha256", "rows"))
    source = json.dumps({"format": format_name, "path": str(file), **nowhere, "licence": None})
    output = tmp_path / "made" / "raw.json"
    return Run(file, {"raw": output}, lambda: acquire.main("any", source, output))


@pytest.mark.parametrize("format_name", ["sharegpt", "evol_instruct", "pku_saferlhf_v0"])
@pytest.mark.parametrize("case", FILES)
def test_acquire_refuses_bad_files(tmp_path: Path, case: str, format_name: str) -> None:
    content, outcome = FILES[case]
    run_acquire(tmp_path, format_name, content).fails(outcome, str(tmp_path / "copy"))


@pytest.mark.parametrize("source", ["sharegpt", "evol_instruct"])
@pytest.mark.parametrize("case", FILES)
def test_mix_refuses_bad_files(raw, tmp_path: Path, case: str, source: str) -> None:
    content, outcome = FILES[case]
    if source == "evol_instruct":
        content = content.replace(b'"id"', b'"idx"')
    run_mix(raw, tmp_path, content, source).fails(outcome, str(tmp_path / "raw" / f"{source}.json"))


@pytest.mark.parametrize("case", FILES)
def test_select_pairs_refuses_bad_files(raw, tmp_path: Path, case: str) -> None:
    content, outcome = FILES[case]
    run_pairs(raw, tmp_path, content).fails(outcome, str(tmp_path / "raw" / "pku_train.jsonl.xz"))


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_mix_on_bad_rows(raw, tmp_path: Path, case: str) -> None:
    content, outcome = CONVERSATIONS[case]
    run = run_mix(raw, tmp_path, content)
    match outcome:
        case Fails():
            run.fails(outcome, str(run.file))
        case Rejects():
            run.rejects(outcome, len(json.loads(content)) + 1)
        case Reads(rows):
            run.accounts(rows + 1, {})
            written = json.loads(run.outputs["mix_file"].read_bytes())
            assert len(written) == rows + 1


@pytest.mark.parametrize("case", PAIRS)
def test_select_pairs_on_bad_rows(raw, tmp_path: Path, case: str) -> None:
    content, outcome = PAIRS[case]
    run = run_pairs(raw, tmp_path, content)
    match outcome:
        case Fails():
            run.fails(outcome, str(run.file))
        case Rejects():
            run.rejects(outcome, content.count(b"\n"))
        case Reads(rows):
            run.accounts(rows, {})


def test_inputs_without_manifest_or_changed_since_are_refused(raw, tmp_path: Path) -> None:
    loose = tmp_path / "loose.json"
    loose.write_bytes(array(GOOD))
    evol = raw("evol_instruct.json", array(EVOL))
    made = {name: tmp_path / "made" / name for name in ("mix_file", "heldout", "funnel", "rejects")}
    run = Run(loose, made, lambda: mix.main(source=[loose, evol], settings=MIX, **made))
    assert run.message is not None and "loose.json.manifest.json is missing" in run.message
    changed = raw("sharegpt.json", array(GOOD))
    changed.write_bytes(array(GOOD, GOOD))
    run = Run(changed, made, lambda: mix.main(source=[changed, evol], settings=MIX, **made))
    assert run.message is not None and "its sha256 differs" in run.message
    assert not (tmp_path / "made").exists()


def test_wrong_settings_are_a_message(raw, tmp_path: Path) -> None:
    made = {name: tmp_path / "made" / name for name in ("mix_file", "heldout", "funnel", "rejects")}
    evol = raw("evol_instruct.json", array(EVOL))
    run = Run(evol, made, lambda: mix.main(source=[evol], settings='{"seed": -1}', **made))
    assert run.message is not None and "heldout" in run.message and "seed" in run.message


def test_a_place_that_cannot_be_written_is_a_message(raw, tmp_path: Path) -> None:
    rows = raw("pku_train.jsonl", lines(PAIR))
    (tmp_path / "made").write_bytes(b"a file where a folder should be")
    made = {name: tmp_path / "made" / name for name in ("pairs", "jsonl", "funnel", "rejects")}
    run = Run(rows, made, lambda: select_pairs.main(rows=[rows], settings=SELECTION, **made))
    assert run.message is not None and str(tmp_path / "made") in run.message
