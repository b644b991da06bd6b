"""Say what becomes of an unfinished training whose code or packages have changed: it goes on, or it starts afresh.

A training that finds such a run stops before its first step and prints these commands with the folder filled in:

    python scripts/unfinished_run.py continue results/checkpoints/amberchat-0123456789abcdef
    python scripts/unfinished_run.py discard results/checkpoints/amberchat-0123456789abcdef
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from amberline.core.locks import LockError
from amberline.training.run_directory import RunDirectoryError, allow_to_continue, discard

app = typer.Typer(add_completion=False, help=__doc__)
Folder = Annotated[Path, typer.Argument(help="run directory, results/checkpoints/MODEL-DIGEST")]


@app.command("continue")
def continue_run(folder: Folder) -> None:
    """Let the run go on with the code and packages that it was refused for; its manifest will say from which step."""
    try:
        step = allow_to_continue(folder)
    except (LockError, RunDirectoryError) as error:
        sys.exit(f"unfinished_run: {error}")
    print(f"{folder} goes on after step {step:,} when the pipeline is started again.")


@app.command("discard")
def discard_run(folder: Folder) -> None:
    """Delete the run and its checkpoints, so that the training starts afresh."""
    try:
        discard(folder)
    except (LockError, RunDirectoryError) as error:
        sys.exit(f"unfinished_run: {error}")
    print(f"{folder} is deleted. The training starts afresh when the pipeline is started again.")


if __name__ == "__main__":
    app()
