"""Select preference pairs from the PKU-SafeRLHF rows that have exactly one safe response."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from amberline.core.funnel import FunnelError
from amberline.core.manifests import ManifestError, verify, write_manifest
from amberline.data.preferences import select_safe_pairs
from amberline.data.streams import BadFile
from amberline.recipe.data import SafePairs


def main(
    *,
    rows: Annotated[Path, typer.Option(help="PKU-SafeRLHF rows: JSON array or JSON lines, plain or .xz")],
    settings: Annotated[str, typer.Option(help="ambersafe.pairs of the configuration, as JSON")],
    pairs: Annotated[Path, typer.Option(help="the pairs to write, grouped by prompt")],
    jsonl: Annotated[Path, typer.Option(help="the pairs to write as prompt, chosen, rejected, one a line")],
    funnel: Annotated[Path, typer.Option(help="the account to write")],
    rejects: Annotated[Path, typer.Option(help="the rejected rows to write")],
) -> None:
    """Select preference pairs from the PKU-SafeRLHF rows that have exactly one safe response."""
    try:
        choices = SafePairs.model_validate_json(settings)
        verify(rows)
        account = select_safe_pairs(rows, choices, pairs, jsonl, rejects)
        account.write(funnel)
        for made in (pairs, jsonl):
            write_manifest(
                made,
                kind="preference-pairs",
                files=[made],
                beside=[funnel, rejects],
                inputs={"rows": rows},
                settings=choices.model_dump(),
                facts={"counts": account.to_json()["counts"], "notes": account.to_json()["notes"]},
            )
    except (ValidationError, ManifestError, BadFile, FunnelError, OSError) as error:
        sys.exit(f"select_safe_pairs: {error}")


if __name__ == "__main__":
    typer.run(main)
