"""Which nodes have begun to start a stage's ranks: each leaves a mark beside the report of its launcher."""

import glob
import socket
from pathlib import Path


def mark_node(report: Path) -> None:
    """Leave the mark of this node."""
    report.with_name(f"{report.name}.on-{socket.gethostname()}").touch()


def marks(report: Path) -> list[Path]:
    """The marks that are there."""
    return sorted(report.parent.glob(f"{glob.escape(report.name)}.on-*"))


def marked_nodes(report: Path) -> list[str]:
    """The host names of the nodes that have begun."""
    return [mark.name.removeprefix(f"{report.name}.on-") for mark in marks(report)]
