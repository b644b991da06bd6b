"""Mix ShareGPT and evol-instruct conversations into one shuffled file."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from amberline.core.funnel import FunnelError
from amberline.core.manifests import ManifestError, verify, write_manifest
from amberline.data.mixing import MixError, mix
from amberline.data.streams import BadFile
from amberline.recipe.data import Mix


def main(
    *,
    sharegpt: Annotated[Path, typer.Option(help="ShareGPT conversations: JSON array or JSON lines")],
    evol: Annotated[Path, typer.Option(help="evol-instruct conversations: JSON array or JSON lines")],
    settings: Annotated[str, typer.Option(help="amberchat.mix of the configuration, as JSON")],
    mix_file: Annotated[Path, typer.Option("--mix", help="the mix to write")],
    heldout: Annotated[Path, typer.Option(help="the held-out conversations to write")],
    funnel: Annotated[Path, typer.Option(help="the account to write")],
    rejects: Annotated[Path, typer.Option(help="the rejected and remarkable rows to write")],
) -> None:
    """Mix ShareGPT and evol-instruct conversations into one shuffled file."""
    try:
        choices = Mix.model_validate_json(settings)
        for source in (sharegpt, evol):
            verify(source)
        account = mix(sharegpt, evol, choices, made=mix_file, heldout=heldout, rejects=rejects)
        account.write(funnel)
        for made in (mix_file, heldout):
            write_manifest(
                made,
                kind="conversations",
                files=[made],
                beside=[funnel, rejects],
                inputs={"sharegpt": sharegpt, "evol_instruct": evol},
                settings=choices.model_dump(),
                facts={"counts": account.to_json()["counts"], "notes": account.to_json()["notes"]},
            )
    except (ValidationError, ManifestError, BadFile, MixError, FunnelError, OSError) as error:
        sys.exit(f"mix: {error}")


if __name__ == "__main__":
    typer.run(main)
