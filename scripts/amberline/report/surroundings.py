"""Which commit of the project a page was written with, and on which machine."""

import os
import platform
import subprocess
from pathlib import Path

import psutil


def commit_of(folder: Path) -> str | None:
    """The commit of a clone, with its tag and a mark of changes that are not committed; None where there is no git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


def machine() -> str:
    """This machine, in words."""
    memory = psutil.virtual_memory().total / 1e9
    return f"{platform.node()} ({platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB of memory)"
