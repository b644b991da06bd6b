"""A copy of the project in which the demo has run to its end, once for all tests of this folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from amberline.recipe.files import put_on_top, read_file

ROOT = Path(__file__).parents[2]
RECIPE = "demo/config.yaml"
DEMO = ["--configfile", RECIPE, "--cores", "2"]


def environment() -> dict[str, str]:
    """Of a user who runs Snakemake."""
    return {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}


@dataclass
class Project:
    """A checkout to run Snakemake in."""

    root: Path

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        """Run Snakemake as a user would; return what it printed."""
        program = Path(sys.executable).with_name("snakemake")
        done = subprocess.run([program, *arguments], cwd=self.root, capture_output=True, text=True, env=environment())
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def look(self, *arguments: str) -> str:
        """What Snakemake prints with options that start nothing, such as -n."""
        status, printed = forked()(self.root, arguments)
        assert status == 0, printed
        return printed

    def refused(self, *arguments: str) -> str:
        """What Snakemake prints of a command that it refuses."""
        status, printed = forked()(self.root, arguments)
        assert status != 0, printed
        return printed

    def planned(self, *more: str, on_top: Mapping[str, Any] | None = None) -> set[str]:
        """The jobs that a dry run of the demo would run, with a file on top of it: each its rule and what it is for."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(dict(on_top or {}), file)
            file.flush()
            files = [RECIPE, file.name] if on_top else [RECIPE]
            return set(jobs(self.look("-n", "--configfile", *files, "--cores", "2", *more)))

    def copy(self, to: Path) -> "Project":
        """The same files with the same times in another folder."""
        shutil.copytree(self.root, to, symlinks=True)
        return Project(to)

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace text in a file; it must be there once."""
        path = self.root / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def overlay(self, values: Mapping[str, Any]) -> None:
        """Put settings on top of the demo's."""
        path = self.root / RECIPE
        path.write_text(yaml.safe_dump(put_on_top(read_file(path), values), sort_keys=False), encoding="utf-8")

    def touch_everything(self) -> None:
        """Give every file the same new modification time."""
        now = time.time()
        for path in self.root.rglob("*"):
            if path.is_file() and ".snakemake" not in path.parts:
                os.utime(path, (now, now))


@cache
def forked():
    """A function that runs Snakemake in a fork of a process that has imported it, for its status and its text."""
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("forks.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(folder: Path, arguments: Sequence[str]) -> tuple[int, str]:
        with tempfile.NamedTemporaryFile() as printed:
            request = {"folder": str(folder), "arguments": arguments, "printed": printed.name}
            server.stdin.write(json.dumps(request | {"environment": environment()}) + "\n")
            server.stdin.flush()
            return int(server.stdout.readline()), Path(printed.name).read_text(encoding="utf-8")

    return run


def jobs(printed: str) -> dict[str, str]:
    """The jobs in a printed plan, by names such as `train amberchat` and `evaluate rewards base`, without digests."""
    if "Nothing to be done" in printed:
        return {}
    blocks = re.findall(r"^rule (\S+):(.*)\n((?:    .*\n)+)", printed, re.MULTILINE)
    found = {" ".join([rule, *filter(None, _named(wildcards, block))]): block for rule, wildcards, block in blocks}
    assert len(found) == int(re.search(r"^total +(\d+)$", printed, re.MULTILINE)[1]), printed
    return found


def _named(wildcards: str, block: str) -> Iterator[str]:
    """The values of a job's wildcards. Of a workflow with this one as a module, they are in the block."""
    listed = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
    for name, value in re.findall(r"(\w+)=([^\s,]*)", listed[1] if listed else wildcards):
        if name != "ending":
            yield re.sub(r"-[0-9a-f]{8}\b", "", value).removeprefix("-")


def checkout(to: Path) -> Project:
    """The files that git knows, and those it does not know yet, in a new folder."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return Project(to)


@pytest.fixture(scope="session")
def fresh(tmp_path_factory) -> Project:
    """A checkout in which nothing has run."""
    return checkout(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id) -> Project:
    """A checkout in which the demo has run to its end: one for all processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    project = Project((base if worker_id == "master" else base.parent) / "finished")
    with FileLock(f"{project.root}.lock"):
        if not project.root.exists():
            making = checkout(project.root.with_name("making"))
            making.snakemake(*DEMO, "--quiet", "rules")
            making.root.rename(project.root)
    return project
