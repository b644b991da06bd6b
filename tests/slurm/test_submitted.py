"""A job that waits in the queue runs with the settings and the code that it was submitted with, or not at all."""

import json

import pytest
import yaml

from dag.conftest import Project
from slurm.pipelines import OVERLAYS, Pipeline, on_cluster

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

MIX = "results/demo/data/evol-mix.json.manifest.json"


def seeded(number: int) -> dict:
    return {"datasets": {"evol-mix": {"seed": number}}}


def write_overlay(project: Project, values: dict) -> None:
    (project.root / "overlay.yaml").write_text(yaml.safe_dump(values))


def seed(project: Project) -> int:
    """The one that the mix was shuffled with, by its manifest."""
    return json.loads((project.root / MIX).read_text())["settings"]["seed"]


def planned(project: Project) -> bool:
    """Whether a dry run would make the mix again."""
    printed = project.snakemake("-n", "--configfile", *OVERLAYS, "overlay.yaml", "--", MIX)
    return "rule mix:" in printed


class Waiting:
    """The mix as a Slurm job in a partition that is down."""

    def __init__(self, project: Project, cluster, overlay: dict) -> None:
        self.cluster = cluster
        self._partition("DOWN")
        self.pipeline: Pipeline = on_cluster(project, cluster, overlay, targets=(MIX,))
        self.pipeline.until(lambda: "rule_mix" in cluster.ask("squeue", "--noheader", "--format=%k"))

    def goes_on(self) -> int:
        """Let the job run; the pipeline's exit status."""
        self._partition("UP")
        return self.pipeline.end(120)

    def _partition(self, state: str) -> None:
        self.cluster.ask("scontrol", "update", "PartitionName=cpu", f"State={state}")


def test_an_overlay_edited_while_a_job_waits(cluster, project):
    """In both directions: what runs is what was submitted, and what is recorded is what ran."""
    waiting = Waiting(project, cluster, seeded(5))
    write_overlay(project, {**seeded(6), "results": "results/elsewhere"})
    assert waiting.goes_on() == 0, waiting.pipeline.text
    assert seed(project) == 5
    assert not (project.root / "results/elsewhere").exists()
    write_overlay(project, seeded(6))
    assert planned(project)
    write_overlay(project, seeded(5))
    assert not planned(project)

    waiting = Waiting(project, cluster, seeded(6))
    # Not even a file that cannot be read any more matters.
    (project.root / "overlay.yaml").write_text("datasets: {evol-mix: [")
    assert waiting.goes_on() == 0, waiting.pipeline.text
    assert seed(project) == 6
    write_overlay(project, seeded(6))
    assert not planned(project)


def test_code_edited_while_a_job_waits(cluster, project):
    waiting = Waiting(project, cluster, {})
    with open(project.root / "scripts/mix.py", "a") as program:
        program.write("\n\nADDED = 1\n")
    assert waiting.goes_on() != 0
    assert (
        "the code of scripts/mix.py changed after this job was submitted: it was not started" in waiting.pipeline.text
    )
    assert not (project.root / MIX).exists()
    # A comment is no change.
    text = (project.root / "scripts/mix.py").read_text()
    waiting = Waiting(project, cluster, {})
    (project.root / "scripts/mix.py").write_text(f"{text}# A comment.\n")
    assert waiting.goes_on() == 0, waiting.pipeline.text
    assert (project.root / MIX).exists()
