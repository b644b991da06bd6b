"""Get one raw file, from the hub or from a local path, and verify it."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from amberline.core.digests import sampled_digest
from amberline.core.manifests import write_manifest
from amberline.data.streams import BadFile
from amberline.hub.acquisition import SourceError, acquire
from amberline.hub.downloads import HubError
from amberline.hub.origins import origin
from amberline.recipe.data import Source


def main(
    name: Annotated[
        Literal["sharegpt", "evol_instruct", "pku_train", "pku_test"], typer.Option(help="which raw file it is")
    ],
    source: Annotated[str, typer.Option(help="its entry in sources of the configuration, as JSON")],
    output: Annotated[Path, typer.Option(help="file to write")],
) -> None:
    """Get one raw file, from the hub or from a local path, and verify it."""
    try:
        wanted = Source.model_validate_json(source)
        findings = acquire(name, wanted, output)
    except (ValidationError, SourceError, HubError, BadFile, OSError) as error:
        sys.exit(f"acquire: {error}")
    write_manifest(
        output,
        kind="raw",
        files=[output],
        inputs={},
        settings={"name": name},
        facts={**findings.facts(), "sampled": sampled_digest(output), "origin": origin(wanted)},
    )
    print(f"{name}: {findings.rows:,} rows", file=sys.stderr)
    if unchecked := [what for what, done in findings.checks.items() if done != "verified"]:
        print(f"{name}: not verified, for the configuration does not say: {', '.join(unchecked)}", file=sys.stderr)
    if findings.version == "v1":
        print(f"{name}: this is PKU-SafeRLHF v1; the published recipe used v0", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
