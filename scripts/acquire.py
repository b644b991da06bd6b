"""Get the raw file or files of a source, from the hub or from a local path, and verify them."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from amberline.core.ending import one_message
from amberline.core.manifests import write_manifest
from amberline.data.streams import BadFile, files_of
from amberline.formats.registry import FormatError
from amberline.hub.acquisition import acquire
from amberline.hub.downloads import HubError
from amberline.hub.origins import origin, sampled
from amberline.hub.verification import SourceError
from amberline.recipe.data import Source
from amberline.recipe.sources_lock import SourcesLock, SourcesLockError


def main(
    name: Annotated[str, typer.Option(help="name of the source in the configuration")],
    source: Annotated[str, typer.Option(help="its entry in sources of the configuration, as JSON")],
    output: Annotated[Path, typer.Option(help="file to write; of a source of several files, their folder")],
    sources_lock: Annotated[
        Path | None,
        typer.Option(help="file that holds a source without sha256 to what is found first; without it, nothing does"),
    ] = None,
) -> None:
    """Get the raw file or files of a source, from the hub or from a local path, and verify them."""
    with one_message("acquire", ValidationError, FormatError, SourceError, SourcesLockError, HubError, BadFile):
        wanted = Source.model_validate_json(source)
        lock = SourcesLock(sources_lock) if sources_lock else None
        findings = acquire(name, wanted, output, lock)
        held_by = "recipe" if wanted.sha256 is not None else "sources.lock" if lock else None
        write_manifest(
            output,
            kind="raw",
            files=files_of(output),
            inputs={},
            settings={"name": name, "format": wanted.format},
            facts={
                **findings.facts(),
                "sampled": sampled(output, wanted.files),
                "origin": origin(wanted),
                "held_by": held_by,
            },
        )
    if findings.unchecked:
        unchecked = ", ".join(findings.unchecked)
        print(f"{name}: not verified, for the configuration does not say: {unchecked}", file=sys.stderr)
    if held_by == "sources.lock":
        print(f"{name}: {sources_lock} holds it to what was found when it was first used", file=sys.stderr)
    other_shape = findings.rows_of_other_shape
    print(
        f"{name}: {findings.rows:,} rows read as {wanted.format}, {other_shape:,} of them of another shape",
        file=sys.stderr,
    )


if __name__ == "__main__":
    typer.run(main)
