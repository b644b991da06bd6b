"""Sources whose sha256 the recipe does not say are held to what was found of them first."""

import hashlib
import io
import json
import multiprocessing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hub_server import COMMIT, HubServer, published_source

import acquire
from amberline.core.manifests import verify
from amberline.data.streams import read_records
from amberline.hub.origins import find_misfit
from amberline.recipe.data import Source
from amberline.recipe.sources_lock import SourcesLock

UNKNOWN = {"bytes": None, "sha256": None, "rows": None}


def rows(*texts: str) -> list[dict]:
    return [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]} for text in texts]


def parquet(*texts: str) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows(*texts)), target)
    return target.getvalue()


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows(*texts))


def described(content: bytes) -> dict:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("sources.lock")


def source(**changes: object) -> str:
    return published_source(b"", 0, **{"format": "messages", **UNKNOWN, **changes})


def get(output: str, lock: Path, name: str = "mine", **changes: object) -> Path:
    acquire.main(name, source(**changes), Path(output), lock)
    return Path(output)


def refusal(output: str, lock: Path, **changes: object) -> str:
    before = Path(output).exists()
    with pytest.raises(SystemExit) as stop:
        get(output, lock, **changes)
    assert isinstance(stop.value.code, str), "a message, not a status"
    assert Path(output).exists() == before
    return stop.value.code


def test_a_local_file_is_trusted_once(lock: Path) -> None:
    Path("mine.jsonl").write_bytes(lines("q"))
    made = get("raw/mine.jsonl", lock, path="mine.jsonl")
    assert yaml.safe_load(lock.read_text()) == {"mine": {"files": {"mine.jsonl": described(lines("q"))}}}
    assert verify(made)["facts"]["held_by"] == "sources.lock"
    get("raw/mine.jsonl", lock, path="mine.jsonl")
    Path("mine.jsonl").write_bytes(lines("r"))
    said = refusal("raw/mine.jsonl", lock, path="mine.jsonl")
    old, new = (described(lines(text))["sha256"] for text in "qr")
    assert f"mine.jsonl has sha256 {new}, but must have {old}" in said
    assert "delete the entry 'mine' of sources.lock" in said
    assert made.read_bytes() == lines("q"), "what was there stays"
    Path("sources.lock").unlink()
    get("raw/mine.jsonl", lock, path="mine.jsonl")
    assert SourcesLock(lock).held("mine") == {"mine.jsonl": described(lines("r"))}


def test_the_name_of_one_file_does_not_matter(lock: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        Path(name).write_bytes(lines("q"))
        get("raw/mine.jsonl", lock, path=name)
    assert SourcesLock(lock).held("mine") == {"a.jsonl": described(lines("q"))}


def test_what_the_recipe_says_is_not_held(lock: Path) -> None:
    Path("mine.jsonl").write_bytes(lines("q"))
    made = get("raw/mine.jsonl", lock, path="mine.jsonl", sha256=described(lines("q"))["sha256"])
    assert not lock.exists()
    assert verify(made)["facts"]["held_by"] == "recipe"


def test_a_fetched_file_is_held_with_its_commit(hub: HubServer, lock: Path) -> None:
    hub.files["someone/conversations/rows.json"] = lines("q")
    get("raw/mine.json", lock, revision="main")
    assert yaml.safe_load(lock.read_text())["mine"]["commit"] == COMMIT
    hub.files["someone/conversations/rows.json"] = lines("r")
    Path("raw/mine.json").unlink()
    said = refusal("raw/mine.json", lock, revision="main")
    assert "but must have" in said and f"when it was first used (commit {COMMIT})" in said
    assert not list(Path("raw").glob(".*")), "what is wrong is not kept"


def test_files_of_a_repository_by_a_pattern_are_one_source(hub: HubServer, lock: Path) -> None:
    hub.files |= {
        "someone/conversations/data/train-2.parquet": parquet("c"),
        "someone/conversations/data/train-1.parquet": parquet("a", "b"),
        "someone/conversations/data/test-1.parquet": parquet("x"),
        "someone/conversations/data/old/train-1.parquet": parquet("y"),
        "someone/conversations/README.md": b"# no rows",
    }
    asked = {"file": None, "files": "data/train-*.parquet", "revision": "main"}
    made = get("raw/mine.files", lock, **asked)
    assert [row.value["messages"][0]["content"] for row in read_records(made)] == ["a", "b", "c"]
    manifest = verify(made)
    assert manifest["facts"]["rows"] == 3
    assert manifest["facts"]["origin"]["files"] == "data/train-*.parquet"
    assert sorted(manifest["files"]) == ["mine.files/data/train-1.parquet", "mine.files/data/train-2.parquet"]
    held = yaml.safe_load(lock.read_text())["mine"]
    assert held["commit"] == COMMIT
    assert held["files"] == {
        "data/train-1.parquet": described(parquet("a", "b")),
        "data/train-2.parquet": described(parquet("c")),
    }
    assert sorted(path.name for path in Path("raw").iterdir()) == ["mine.files", "mine.files.manifest.json"]
    hub.files["someone/conversations/data/train-3.parquet"] = parquet("d")
    assert "data/train-3.parquet is new by sources.lock" in refusal("raw/mine.files", lock, **asked)
    del hub.files["someone/conversations/data/train-1.parquet"], hub.files["someone/conversations/data/train-3.parquet"]
    assert "data/train-1.parquet is missing" in refusal("raw/mine.files", lock, **asked)
    asked["files"] = "train-*.parquet"
    assert "no file there is named like 'train-*.parquet'. Fix: correct" in refusal("raw/mine.files", lock, **asked)


def test_what_is_held_is_not_fetched_again(hub: HubServer, lock: Path) -> None:
    hub.files |= {f"someone/conversations/{n}.jsonl": lines(n) for n in "abc"}
    several = {"file": None, "files": "[ab].jsonl"}
    for _ in range(2):
        get("raw/mine.files", lock, **several)
        get("raw/other.json", lock, name="other", file="c.jsonl")
    assert hub.sent_bytes == sum(len(lines(n)) for n in "abc")
    Path("raw/mine.files/b.jsonl").write_bytes(lines("damaged"))
    Path("raw/other.json").unlink()
    made = get("raw/mine.files", lock, **several)
    get("raw/other.json", lock, name="other", file="c.jsonl")
    assert (made / "b.jsonl").read_bytes() == lines("b")
    assert hub.sent_bytes == sum(len(lines(n)) for n in "abcbc"), "what is gone or damaged, alone"


def test_a_fault_in_one_of_several_files_names_it(hub: HubServer, lock: Path) -> None:
    hub.files |= {f"someone/conversations/{n}.parquet": parquet("a") for n in "12"}
    hub.files["someone/conversations/2.parquet"] = b"PAR1 and no more"
    said = refusal("raw/mine.files", lock, file=None, files="*.parquet")
    assert f"someone/conversations @ {COMMIT}: *.parquet: 2.parquet: it is damaged or cut short" in said
    assert not Path("raw").exists() or not list(Path("raw").iterdir())


def test_a_cut_download_of_several_files_goes_on(hub: HubServer, lock: Path) -> None:
    hub.files |= {f"someone/conversations/{n}.jsonl": lines(n * 5000) for n in "ab"}
    hub.cuts = [len(lines("a" * 5000)), 700] + [0] * 6
    asked = {"file": None, "files": "*.jsonl"}
    assert "run this again" in refusal("raw/mine.files", lock, **asked)
    get("raw/mine.files", lock, **asked)
    assert hub.sent_bytes == 2 * len(lines("a" * 5000)), "no byte was fetched twice"


def test_files_of_a_local_folder(lock: Path) -> None:
    Path("mine/more").mkdir(parents=True)
    for name, text in (("b.jsonl", "b"), ("a.jsonl", "a"), ("more/c.jsonl", "c"), ("notes.txt", "n")):
        Path("mine", name).write_bytes(lines(text))
    asked = {"path": "mine", "file": None, "files": "*.jsonl"}
    made = get("raw/mine.files", lock, **asked)
    assert [row.value["messages"][0]["content"] for row in read_records(made)] == ["a", "b"]
    wanted = Source.model_validate_json(source(**asked))
    assert find_misfit(wanted, verify(made)) is None
    Path("mine/notes.txt").write_text("other")
    Path("mine/.a.jsonl").write_text("hidden")
    assert find_misfit(wanted, verify(made)) is None
    Path("mine/d.jsonl").write_bytes(lines("d"))
    assert find_misfit(wanted, verify(made)) == "the local file has another content"
    assert "d.jsonl is new" in refusal("raw/mine.files", lock, **asked)


def test_another_committed_lock_is_noticed(lock: Path) -> None:
    Path("mine.jsonl").write_bytes(lines("q"))
    manifest = verify(get("raw/mine.jsonl", lock, path="mine.jsonl"))
    wanted = Source.model_validate_json(source(path="mine.jsonl"))
    assert find_misfit(wanted, manifest, SourcesLock(lock).held("mine")) is None
    other = {"mine.jsonl": described(lines("r"))}
    assert find_misfit(wanted, manifest, other) == "sources.lock holds it to another content"


@pytest.mark.parametrize("content", ["- a\n", "mine: {}\n", "mine: {files: {a: {bytes: 1}}}\n", "{", "mine: 3\n", "\0"])
def test_a_damaged_lock_is_one_message(lock: Path, content: str) -> None:
    Path("mine.jsonl").write_bytes(lines("q"))
    lock.write_text(content)
    assert "sources.lock: it is not as it was written. Fix: " in refusal("raw/mine.jsonl", lock, path="mine.jsonl")


def test_many_jobs_write_it_at_once(lock: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(_hold, [(str(lock.resolve()), f"source{number}") for number in range(40)])
    assert sorted(yaml.safe_load(lock.read_text())) == sorted(f"source{number}" for number in range(40))
    assert [path.name for path in lock.resolve().parent.iterdir()] == ["sources.lock"]


def _hold(lock: str, name: str) -> None:
    SourcesLock(Path(lock)).hold(name, {"a": described(b"")}, None)


def test_one_file_of_many_in_another_format_stops_with_its_name(lock: Path) -> None:
    Path("folder").mkdir()
    Path("folder/a.jsonl").write_bytes(lines("q", "r", "s"))
    Path("folder/b.jsonl").write_text(json.dumps({"instruction": "q", "input": "", "output": "a"}) + "\n")
    said = refusal("raw/mine.files", lock, path="folder", files="*.jsonl")
    assert "b.jsonl: no row has the shape of messages" in said
    assert "They look like alpaca" in said


def test_a_wrong_format_stops_with_what_the_file_looks_like(lock: Path) -> None:
    Path("mine.jsonl").write_bytes(lines("q"))
    said = refusal("raw/mine.jsonl", lock, path="mine.jsonl", format="sharegpt")
    assert "no row has the shape of sharegpt" in said
    assert "They look like messages. Fix: sources.mine.format: messages." in said
    Path("mine.jsonl").write_text('{"question": 1}\n')
    assert "Fix: give the right file" in refusal("raw/mine.jsonl", lock, path="mine.jsonl")
