"""Run a command that reads token folders from copies of them on this node's own disk.

Where there can be no copies, it reads the folders themselves, and a warning says why. The copies are verified and have
the same manifests, so this changes no result, and this file is no input of the rules that use it.
"""

import signal
import subprocess
import sys
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from amberline.cluster.scratch import ScratchError, copies, node_folder
from amberline.core.manifests import ManifestError

# What the training programs call the token folders that they read.
TOKENS = ("--tokens", "--heldout", "--reference", "--heldout-reference")


def main(
    scratch: Annotated[str, typer.Option(help="folder on this node's own disk; variables in it are filled in")],
    command: Annotated[list[str], typer.Argument(help="command and its arguments, after --")],
) -> None:
    """Run COMMAND with its token folders copied to this node's own disk."""
    # The command hears Ctrl-C as well: wait for its end.
    signal.signal(signal.SIGINT, lambda *_: None)
    folders = [Path(value) for option, value in pairwise(command) if option in TOKENS]
    nearby: dict[str, str] = {}
    with ExitStack() as until_the_end:
        try:
            kept = until_the_end.enter_context(copies(folders, node_folder(scratch)))
            nearby = {str(folder): str(copy) for folder, copy in zip(folders, kept, strict=True)}
            print(f"tokens are read from copies in {kept[0].parent}", file=sys.stderr)
        except (ManifestError, OSError, ScratchError) as error:
            print(f"warning: tokens are read where they are, not from a copy on this node: {error}", file=sys.stderr)
        done = subprocess.run([nearby.get(word, word) for word in command], check=False)
    raise typer.Exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)


if __name__ == "__main__":
    typer.run(main)
