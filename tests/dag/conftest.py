"""A copy of the project in which the demo has run to its end, once for all tests of this folder."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
DEMO = ["--configfile", "demo/config.yaml", "--cores", "2"]


@dataclass
class Project:
    """A checkout to run Snakemake in."""

    root: Path

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        """Run Snakemake as a user would; return what it printed."""
        program = Path(sys.executable).with_name("snakemake")
        done = subprocess.run(
            [program, *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
        )
        printed = done.stdout + done.stderr
        assert not check or done.returncode == 0, printed
        return printed

    def planned(self, *more: str) -> Counter[str]:
        """How many jobs of each rule a dry run of the demo would run."""
        printed = self.snakemake("-n", *DEMO, *more)
        if "Nothing to be done" in printed:
            return Counter()
        table = printed.split("Job stats:")[1].split("total")[0]
        return Counter({name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)})

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

    def touch_everything(self) -> None:
        """Give every file the same new modification time."""
        now = time.time()
        for path in self.root.rglob("*"):
            if path.is_file() and ".snakemake" not in path.parts:
                os.utime(path, (now, now))


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
