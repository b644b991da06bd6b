"""Mix conversations of any number of sources into one shuffled file."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from amberline.core.ending import one_message
from amberline.core.funnel import FunnelError
from amberline.core.manifests import ManifestError, verify, write_manifest
from amberline.data.mixing import MixError, mix
from amberline.data.row_sources import sources_file
from amberline.data.streams import BadFile, by_name
from amberline.formats.base import ConversationFormat
from amberline.formats.registry import FormatError, with_formats
from amberline.recipe.data import Mix


def main(
    *,
    source: Annotated[
        list[Path], typer.Option(help="raw conversations: JSON array or JSON lines; repeated, in the order of formats")
    ],
    settings: Annotated[str, typer.Option(help="as JSON: Mix in scripts/amberline/recipe/data.py")],
    mix_file: Annotated[Path, typer.Option("--mix", help="the mix to write")],
    heldout: Annotated[Path, typer.Option(help="the held-out conversations to write")],
    funnel: Annotated[Path, typer.Option(help="the account to write")],
    rejects: Annotated[Path, typer.Option(help="the rejected and remarkable rows to write")],
) -> None:
    """Mix conversations of any number of sources into one shuffled file."""
    with one_message("mix", ValidationError, ManifestError, FormatError, BadFile, MixError, FunnelError):
        choices = Mix.model_validate_json(settings)
        inputs = by_name(source)
        for file in source:
            verify(file)
        sources = with_formats(source, choices.formats, ConversationFormat)
        account = mix(sources, choices, made=mix_file, heldout=heldout, rejects=rejects)
        account.write(funnel)
        for made in (mix_file, heldout):
            write_manifest(
                made,
                kind="conversations",
                files=[made, sources_file(made)],
                beside=[funnel, rejects],
                inputs=inputs,
                settings=choices.model_dump(),
                facts=account.facts(),
            )
    print(f"mix: {account.line('rows')}", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
