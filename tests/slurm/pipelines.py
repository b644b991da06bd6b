"""Snakemake with AmberChat's finetune as its goal, on the local cluster or beside it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import yaml

from amberline.cluster.accounts import RECORD
from dag.conftest import ROOT, Project
from slurm.local_cluster import LocalCluster

RUN = "results/demo/training/amberchat/run.json"
OVERLAYS = ("demo/config.yaml", "tests/slurm/interrupted.yaml")


class Pipeline:
    """Snakemake, started."""

    started: ClassVar[list["Pipeline"]] = []

    def __init__(
        self,
        project: Project,
        environment: dict[str, str],
        *arguments: str,
        targets=(RUN,),
        overlay: dict | None = None,
    ):
        self.project = project
        (project.root / "overlay.yaml").write_text(yaml.safe_dump(overlay or {}))
        self.printed = project.root / f"printed-{time.monotonic_ns()}.txt"
        with open(self.printed, "wb") as printed:
            self.process = subprocess.Popen(
                [
                    # Programs that are started in the background ignore Ctrl-C, unless they are told not to.
                    *("env", "--default-signal", Path(sys.executable).with_name("snakemake"), *arguments),
                    *("--configfile", *OVERLAYS, "overlay.yaml", "--", *targets),
                ],
                cwd=project.root,
                env={**environment, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
            )
        self.started.append(self)

    @property
    def text(self) -> str:
        """What was printed so far."""
        return self.printed.read_text(errors="replace")

    def end(self, seconds: float = 300) -> int:
        """Wait for the end; the exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"not done after {seconds} s:\n{self.text[-5000:]}") from None

    def until(self, reached: Callable[[], bool], seconds: float = 240) -> None:
        """Wait for something that happens while it runs."""
        end = time.monotonic() + seconds
        while not reached():
            assert self.process.poll() is None, self.text
            assert time.monotonic() < end, self.text
            time.sleep(0.2)


class Sleepers(Pipeline):
    """A pipeline whose jobs sleep; see sleepers.smk."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str, **config: object):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.printed = folder / f"printed-{time.monotonic_ns()}.txt"
        given = {"scripts": ROOT / "scripts", "seconds": 4, "ends": "true", **config}
        arguments = arguments or on_slurm()
        with open(self.printed, "wb") as printed:
            self.process = subprocess.Popen(
                [
                    *("env", "--default-signal", Path(sys.executable).with_name("snakemake")),
                    *("--snakefile", ROOT / "tests/slurm/sleepers.smk", *arguments),
                    *("--config", *(f"{name}={value}" for name, value in given.items())),
                ],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
            )
        self.started.append(self)

    def submitted(self) -> list[str]:
        """The numbers of its jobs."""
        record = self.folder / "results" / RECORD
        return [json.loads(line)["job"] for line in record.read_text().splitlines()] if record.exists() else []


def on_slurm() -> tuple[str, ...]:
    """The options of a start on a cluster, which looks at the queue often."""
    return ("--profile", str(ROOT / "slurm"), "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5")


def on_cluster(project: Project, cluster: LocalCluster, overlay: dict | None = None, targets=(RUN,)) -> Pipeline:
    """The pipeline with its stages as Slurm jobs, looked at often because they are short."""
    return Pipeline(
        project,
        cluster.environment,
        *("--profile", "slurm", "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10"),
        targets=targets,
        overlay=overlay,
    )


def weights(project: Project) -> str:
    """Digest of the final weights."""
    digest: str = json.loads((project.root / RUN).read_text())["weights_sha256"]
    return digest
