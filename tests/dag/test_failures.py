"""What a try that fails leaves of earlier results: all data, until new ones are there."""

import hashlib
import json
import shutil

import pytest

from dag.conftest import DEMO

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(
    ("overlay", "fails", "runs_again"),
    [
        ({"datasets": {"evol-mix": {"heldout": 5000}}}, "mix evol-mix", {"mix evol-mix"}),
        (
            {"sources": {"sharegpt": {"path": "cut.json", "bytes": None, "sha256": None, "rows": None}}},
            "acquire sharegpt",
            {"acquire sharegpt", "mix evol-mix"},
        ),
    ],
)
def test_data_stay_when_their_stage_fails(fresh, tmp_path, overlay, fails, runs_again):
    project = fresh.copy(tmp_path / "project")
    target = ("--", "results/demo/data/evol-mix.json.manifest.json")
    project.snakemake(*DEMO, "--quiet", "rules", *target)
    before = data_of(project)
    assert len(before) == 6
    (project.root / "cut.json").write_bytes((project.root / "demo/raw/sharegpt.json").read_bytes()[:-1000])
    (project.root / "mine.yaml").write_text(json.dumps(overlay))

    printed = project.snakemake("--configfile", DEMO[1], "mine.yaml", "--cores", "2", *target, check=False)
    assert f"== {fails}" in printed
    program, subject = fails.split()
    reason, log = printed.splitlines()[-2:]
    assert reason.startswith(f"{program}: "), "why it failed comes last"
    assert log.startswith(f"Its log: results/demo/logs/{program}/{subject}")
    assert "--settings" not in printed, "the command is of no use to people"
    assert data_of(project) == before
    assert project.planned(*target) - runs_again == set(), "only a stage that failed, and what reads it, runs again"
    project.snakemake(*DEMO, "--quiet", "rules", *target)
    assert data_of(project) == before
    assert project.planned(*target) == set()


def test_what_was_made_anew_is_not_said_to_be_made_elsewhere(fresh, tmp_path):
    """A killed start leaves results without a record, too; they are made anew, or found to be finished."""
    project = fresh.copy(tmp_path / "project")
    target = (*DEMO, "--", "evol-mix")
    project.snakemake("--quiet", "rules", *target)
    shutil.rmtree(project.root / ".snakemake/metadata")
    assert "were made elsewhere" in project.look("-n", *target)
    assert "were made elsewhere" not in project.snakemake("--forceall", "--quiet", "rules", *target)


def data_of(project) -> dict[str, str]:
    """The digest of each raw file and each dataset."""
    found = [file for kind in ("raw", "data") for file in (project.root / "results/demo" / kind).iterdir()]
    data = [file for file in found if "manifest" not in file.name and not file.name.startswith(".")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in data}
