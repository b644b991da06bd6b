"""A real cluster on this machine, started once, and checkouts to run on it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from amberline.recipe.check import check_recipe
from amberline.recipe.files import read_recipe
from dag.conftest import ROOT, Project, checkout
from slurm.local_cluster import LocalCluster, local_cluster, why_not
from slurm.pipelines import RUN, Pipeline, on_cluster


def pair_tokens() -> str:
    """The name of the demo's token folder of pairs that are trained on."""
    demo = check_recipe(read_recipe([ROOT / "demo/config.yaml"]), files=False)
    return demo.tokens("ambersafe").name


# Beside AmberChat's line: it needs neither of them.
PAIRS = "results/demo/data/safe-pairs-train.json.manifest.json"
PAIR_TOKENS = f"results/demo/tokens/{pair_tokens()}/manifest.json"

# More than the gigabyte that a job is given first; and a fault such as no second attempt can fix.
HOG = """\
    hog = bytearray(900 * 2**20)
    import time; time.sleep(4)
"""
FAULT = """\
    for number in range(40):
        print(f"line {number}: the file safe-pairs-test.json is torn; fix it")
    raise SystemExit(1)
"""


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """Two nodes with eight pretend GPUs each."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"NOT RUN, a Slurm cluster cannot be started here: {reason}")
    with local_cluster() as started:
        yield started
        # A pipeline that a failed test leaves behind would run on without its cluster.
        for pipeline in Pipeline.started:
            pipeline.process.kill()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A checkout in which nothing has run."""
    return checkout(tmp_path / "project")


@pytest.fixture(scope="session")
def scratch(tmp_path_factory) -> Path:
    """In it, a disk of each node."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def first(cluster, scratch, tmp_path_factory) -> Pipeline:
    """A pipeline that has ended: undisturbed up to AmberChat, and with two faulty stages beside it."""
    project = checkout(tmp_path_factory.mktemp("first"))
    for program, fault in (("select_pairs", HOG), ("tokenize_pairs", FAULT)):
        main = 'if __name__ == "__main__":\n'
        project.edit(f"scripts/{program}.py", main, main + fault)
    pipeline = on_cluster(
        project,
        cluster,
        {
            "cluster": {"scratch": f"{scratch}/$SLURMD_NODENAME"},
            "data_hardware": {"memory_gb": 1, "processes": 1},
        },
        targets=(RUN, PAIRS, PAIR_TOKENS),
    )
    pipeline.end(400)
    return pipeline


@pytest.fixture
def untrained(first, tmp_path) -> Project:
    """The same project with the finetune still to do."""
    project = first.project.copy(tmp_path / "untrained")
    for made in ("checkpoints", "training"):
        shutil.rmtree(project.root / "results/demo" / made)
    return project
