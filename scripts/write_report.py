"""Write the report: one HTML page, every figure read from a file of the run."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from jinja2 import TemplateError

from amberline.cluster.accounts import RECORD, accounts
from amberline.core.damage import damage_in
from amberline.core.ending import one_message
from amberline.core.files import whole_file
from amberline.core.manifests import ManifestError, write_manifest
from amberline.report.page import build_page
from amberline.report.surroundings import commit_of, machine


def main(
    results: Annotated[Path, typer.Option(help="results folder of the run")],
    lock: Annotated[Path, typer.Option(help="lock of the environment, for the list of packages")],
    settings: Annotated[Path, typer.Option(help="JSON file: what the page shows, deviations and sources")],
    jobs: Annotated[Path, typer.Option(help="JSON file to write: the run's Slurm jobs and what they used")],
    output: Annotated[Path, typer.Option(help="HTML file to write")],
) -> None:
    """Write the report."""
    with one_message("write_report", ManifestError):
        used = accounts(results / RECORD)
        shown = json.loads(settings.read_text(encoding="utf-8"))
        packages = lock.read_text(encoding="utf-8", errors="replace")
        commit, here = commit_of(Path(__file__).parent), machine()
        try:
            page = build_page(results, shown, packages, used, commit=commit, machine=here)
        except FileNotFoundError as error:
            sys.exit(
                f"write_report: {error.filename} is missing; run `snakemake report`, which makes what the report needs"
            )
        except (AttributeError, LookupError, TypeError, ValueError, TemplateError):
            # A file may be JSON and have other values than were written.
            if (fault := damage_in(results)) is None:
                raise
            sys.exit(f"write_report: {fault}. Fix: type the pipeline's command again, which makes it anew")
        with whole_file(jobs) as partial:
            partial.write_text(json.dumps(used, indent=1) + "\n", encoding="utf-8")
        with whole_file(output) as partial:
            partial.write_text(page, encoding="utf-8")
        write_manifest(output, kind="report", files=[output], beside=[jobs], inputs={}, settings={}, facts={})
    counts = (f"{sum(1 + len(each['variants']) for each in shown[name])} {name}" for name in ("trainings", "models"))
    print(f"report: {output}: {', '.join(counts)}")


if __name__ == "__main__":
    typer.run(main)
