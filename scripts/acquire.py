"""Get one raw file, from the hub or from a local path, and verify it."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from amberline.core.digests import sampled_digest
from amberline.core.ending import one_message
from amberline.core.manifests import write_manifest
from amberline.data.streams import BadFile
from amberline.formats.registry import FormatError
from amberline.hub.acquisition import SourceError, acquire
from amberline.hub.downloads import HubError
from amberline.hub.origins import origin
from amberline.recipe.data import Source


def main(
    name: Annotated[str, typer.Option(help="name of the source in the configuration")],
    source: Annotated[str, typer.Option(help="its entry in sources of the configuration, as JSON")],
    output: Annotated[Path, typer.Option(help="file to write")],
) -> None:
    """Get one raw file, from the hub or from a local path, and verify it."""
    with one_message("acquire", ValidationError, FormatError, SourceError, HubError, BadFile):
        wanted = Source.model_validate_json(source)
        findings = acquire(name, wanted, output)
        write_manifest(
            output,
            kind="raw",
            files=[output],
            inputs={},
            settings={"name": name, "format": wanted.format},
            facts={**findings.facts(), "sampled": sampled_digest(output), "origin": origin(wanted)},
        )
    if unchecked := [what for what, done in findings.checks.items() if done != "verified"]:
        print(f"{name}: not verified, for the configuration does not say: {', '.join(unchecked)}", file=sys.stderr)
    other_shape = findings.rows_of_other_shape
    print(f"{name}: {findings.rows:,} rows, {other_shape:,} of them of another shape", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
