"""A real cluster on this machine, started once, and checkouts to run on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dag.conftest import Project, checkout
from slurm.local_cluster import LocalCluster, local_cluster, why_not


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """Two nodes with eight pretend GPUs each."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"NOT RUN, a Slurm cluster cannot be started here: {reason}")
    with local_cluster() as started:
        yield started


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A checkout in which nothing has run."""
    return checkout(tmp_path / "project")
