"""A user's own files, in other formats than the published ones: from a few lines of a recipe to mixes and pairs."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dag.conftest import Project

pytestmark = pytest.mark.timeout(1800)

RECIPE = """
sources:
  mine: {path: mine.jsonl, format: messages}
  parts: {path: data, files: train-*.parquet, format: messages}
  wishes: {path: wishes.parquet, format: chosen_rejected}
  others: {path: others.json, format: chosen_rejected}
datasets:
  my-mix: {mix: [mine, parts], take: {mine: 20}, repeat: {parts: 2}, seed: 0, heldout: 5}
  my-pairs: {pairs: {train: wishes, test: others}, select: chosen}
"""


def chat(name: str) -> list[dict]:
    return [{"role": "user", "content": f"Who is {name}?"}, {"role": "assistant", "content": f"{name} is a friend."}]


def write_files(folder: Path) -> None:
    chats = [{"messages": chat(f"Ann {number}")} for number in range(40)]
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, chats)))
    (folder / "data").mkdir()
    for part in range(2):
        rows = [{"messages": chat(f"Bob {part} {number}")} for number in range(10)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"data/train-{part}.parquet")
    system = {"role": "system", "content": "Be kind."}
    wishes = [
        {"chosen": [system, *chat(name)], "rejected": [system, chat(name)[0], {"role": "assistant", "content": "No."}]}
        for name in ("Eve", "Dan")
    ]
    pq.write_table(pa.Table.from_pylist(wishes), folder / "wishes.parquet")
    (folder / "others.json").write_text(json.dumps([{"prompt": "Why?", "chosen": "Because.", "rejected": "No."}]))


def test_a_few_lines_make_own_files_a_mix_and_pairs(fresh: Project, tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    files = ["--configfile", str(fresh.root / "demo/config.yaml"), "mine.yaml"]
    command = ["-s", str(fresh.root / "Snakefile"), *files, "--cores", "2", "--", "my-mix", "my-pairs"]
    project = Project(tmp_path)
    project.snakemake(*command)
    assert "Nothing to be done" in project.look("-n", *command)
    data = tmp_path / "results/demo/data"
    mixed, heldout, pairs = (
        json.loads((data / f"{name}.json").read_text()) for name in ("my-mix", "my-mix-heldout", "my-pairs-train")
    )
    assert len(heldout) == 5
    ann = [row for row in mixed if "Ann" in row["conversations"][0]["value"]]
    bob = [row for row in mixed if "Bob" in row["conversations"][0]["value"]]
    assert len(ann) + len([row for row in heldout if "Ann" in str(row)]) == 20
    assert len(bob) + 2 * len([row for row in heldout if "Bob" in str(row)]) == 40
    assert [group["turns"][0] for group in pairs.values()] == [{"from": "system", "value": "Be kind."}] * 2
    lock = yaml.safe_load((tmp_path / "sources.lock").read_text())
    assert sorted(lock) == ["mine", "others", "parts", "wishes"]
    assert sorted(lock["parts"]["files"]) == ["train-0.parquet", "train-1.parquet"]

    with open(tmp_path / "mine.jsonl", "a", encoding="utf-8") as handle:
        handle.write("\n" + json.dumps({"messages": chat("Carl")}))
    said = project.refused("-n", *command)
    assert "by sources.lock, which holds what was found when it was first used" in said
    assert "delete the entry 'mine' of sources.lock" in said
    del lock["mine"]
    (tmp_path / "sources.lock").write_text(yaml.safe_dump(lock))
    project.snakemake(*command)
    assert yaml.safe_load((tmp_path / "sources.lock").read_text())["mine"]["files"]["mine.jsonl"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "{path: data, format: messages}",
            "sources.mine.path: found 'data', a folder; say which files of it by `files`",
        ),
        ("{path: none, files: '*', format: messages}", "sources.mine.path: found 'none', and there is no such folder"),
        ("{path: data, files: '*.json', format: messages}", "files: found '*.json', and no file of data is named like"),
        ("{path: data, files: ../*, format: messages}", "files is '../*': write paths inside the folder"),
        ("{path: mine.jsonl}", "sources.mine.format: missing; `python scripts/inspect_source.py FILE`"),
    ],
)
def test_what_is_wrong_with_a_source_stops_before_any_job(
    fresh: Project, tmp_path: Path, source: str, said: str
) -> None:
    write_files(tmp_path)
    (tmp_path / "mine.yaml").write_text(f"sources:\n  mine: {source}\n")
    command = [
        "-s",
        str(fresh.root / "Snakefile"),
        "-n",
        "--configfile",
        str(fresh.root / "demo/config.yaml"),
        "mine.yaml",
    ]
    assert said in Project(tmp_path).refused(*command, "--cores", "1")
