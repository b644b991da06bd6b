"""Say what a file of conversations or preferences is, and print the lines that make it a source of a recipe.

python scripts/inspect_source.py mine.jsonl
"""

from pathlib import Path
from typing import Annotated

import typer

from amberline.core.ending import one_message
from amberline.data.streams import BadFile
from amberline.formats.registry import FormatError
from amberline.hub.inspection import inspect, told


def main(
    file: Annotated[Path, typer.Argument(help="JSON array, JSON lines (plain, xz, gzip or zstd) or Parquet")],
    format: Annotated[
        str | None, typer.Option(help="read its rows as this format; without it, as the one that they look like")
    ] = None,
) -> None:
    """Say what a file of conversations or preferences is, and print the lines that make it a source of a recipe."""
    with one_message("inspect_source", BadFile, FormatError):
        print(told(inspect(file, format)))


if __name__ == "__main__":
    typer.run(main)
