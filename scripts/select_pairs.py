"""Select pairs of a preferred response and another from rows of preferences."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from amberline.core.ending import one_message
from amberline.core.funnel import FunnelError
from amberline.core.manifests import ManifestError, verify, write_manifest
from amberline.data.selecting_pairs import select_pairs
from amberline.data.streams import BadFile, by_name
from amberline.formats.base import PreferenceFormat
from amberline.formats.registry import FormatError, with_formats
from amberline.recipe.data import Pairs


def main(
    *,
    rows: Annotated[
        list[Path],
        typer.Option(help="raw preferences: JSON array or JSON lines, plain or .xz; repeated, in the order of formats"),
    ],
    settings: Annotated[str, typer.Option(help="as JSON: Pairs in scripts/amberline/recipe/data.py")],
    trained_on: Annotated[
        Path | None, typer.Option(help="pairs that are trained on, grouped by prompt: the same prompts are noted")
    ] = None,
    pairs: Annotated[Path, typer.Option(help="the pairs to write, grouped by prompt")],
    jsonl: Annotated[Path, typer.Option(help="the pairs to write as prompt, chosen, rejected, one a line")],
    funnel: Annotated[Path, typer.Option(help="the account to write")],
    rejects: Annotated[Path, typer.Option(help="the rejected rows to write")],
) -> None:
    """Select pairs of a preferred response and another from rows of preferences."""
    with one_message("select_pairs", ValidationError, ManifestError, FormatError, BadFile, FunnelError):
        choices = Pairs.model_validate_json(settings)
        inputs = by_name(rows)
        for file in [*rows, *([trained_on] if trained_on else [])]:
            verify(file)
        sources = with_formats(rows, choices.formats, PreferenceFormat)
        account = select_pairs(sources, choices, pairs, jsonl, rejects, trained_on)
        account.write(funnel)
        for made in (pairs, jsonl):
            write_manifest(
                made,
                kind="preference-pairs",
                files=[made],
                beside=[funnel, rejects],
                inputs=inputs,
                settings=choices.model_dump(),
                facts=account.facts(),
            )
    print(f"select_pairs: {account.line('rows')}", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
