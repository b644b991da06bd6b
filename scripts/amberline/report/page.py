"""The report: one page that needs no other file, every figure in it read from a file of the run.

What it shows, and under which titles, `contents` tells of the recipe; no node is known here by its name.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from amberline.core.manifests import ManifestError
from amberline.recipe import paths
from amberline.report import plots, text
from amberline.report.curves import compared_curves, curves
from amberline.report.measured import evaluation_view, samples_view, tile
from amberline.training.staleness import kept_changes

Entry = Mapping[str, Any]  # as `contents` describes what is shown


def build_page(
    results: Path, settings: Mapping[str, Any], lock: str, jobs: Mapping[str, Any], *, commit: str | None, machine: str
) -> str:
    """The page as HTML. `settings` holds the contents of the page, and what differs from the published recipe.

    `jobs` are the run's Slurm jobs and why there are no figures of them, as `cluster.accounts` tells. `commit` and
    `machine` are those that the page is written with and on. Raises ManifestError naming a file that is damaged.
    """
    found = [(each, _metrics(results, each)) for each in settings["evaluations"]]
    accounts = _filled(settings["data"], lambda each: _account(results, each))
    both_modes = _filled(settings["both_modes"], lambda each: {"rows": _side_by_side(_read(results / each["file"]))})
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            trained=settings["trained"]["titles"],
            trained_by_variants=settings["trained"]["of_variants"],
            variants=settings["variants"],
            stand_ins=[_read(results / paths.manifest(each))["facts"]["parameters"] for each in settings["stand_ins"]],
            commit=commit,
            machine=machine,
            tiles=list(filter(None, (tile(*each) for each in found))),
            accounts=accounts,
            both_modes=both_modes,
            histograms=[each for each in accounts if each["panels"]],
            trainings=[_training(results, each) for each in settings["trainings"]],
            evaluations=[evaluation_view(*each) for each in found if each[0]["columns"]],
            samples=list(filter(None, (samples_view(*each) for each in found))),
            jobs=jobs["jobs"],
            unaccounted=jobs["missing"],
            methods=settings["methods"],
            methods_of_variants=settings["methods_of_variants"],
            sources=[_source(results, each, settings["raw"]) for each in settings["sources"]],
            models=_filled(settings["models"], lambda each: _read(results / paths.manifest(each["folder"]))),
            deviations=settings["deviations"],
            configuration=yaml.safe_dump(settings["recipe"], sort_keys=False, allow_unicode=True, width=110),
            packages=[line.split("==") for line in lock.splitlines() if "==" in line],
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": text.number,
        "duration": text.duration,
        "gigabytes": text.gigabytes,
        "percent": text.percent,
        "listed": text.listed,
    }
    return environment


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ManifestError(f"{path} is damaged ({error}): delete it and make that stage again") from None


def _filled(entries: Iterable[Entry], found: Callable[[Entry], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries, and those of variants in them, with what was found of each."""
    return [
        {**each, **found(each), "variants": [{**variant, **found(variant)} for variant in each["variants"]]}
        for each in entries
    ]


def _metrics(results: Path, evaluation: Entry) -> dict[str, Any]:
    """What an evaluation found, by file."""
    rows = (*evaluation["models"], *evaluation["variants"])
    return {each["file"]: _read(results / each["file"]) for each in rows}


def _source(results: Path, source: Mapping[str, Any], raw: Mapping[str, str]) -> dict[str, Any]:
    """A source or a pretrained model as the configuration describes it, and the content or commit that was found."""
    name = source["name"]
    if name in raw:
        return {**source, "sha256": _read(results / paths.manifest(raw[name]))["facts"]["sha256"]}
    made = results / paths.manifest(paths.model(name))
    commit = _read(made)["facts"].get("commit") if made.exists() else None
    return {**source, "revision": commit or source["revision"], "sha256": None}


def _training(results: Path, training: Entry) -> dict[str, Any]:
    """A training with its variants, and its curves."""
    drawn = compared_curves(results, training) if training["variants"] else curves(results / training["metrics"])
    whole = _filled([training], lambda each: _made(results, each))[0]
    return {**whole, "curves": list(drawn), "legend": plots.legend(training) if training["variants"] else []}


def _made(results: Path, training: Entry) -> dict[str, Any]:
    """What made a training's weights: `made_with`, `earlier`, and what it is `kept` for."""
    facts: dict[str, Any] = _read(results / paths.manifest(training["run"]))["facts"]
    return {**facts, **training, "kept": kept_changes(facts)}


def _side_by_side(modes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the side-by-side table: a unit's way in, each loss by reason, and what is left, for every mode."""
    rows = []
    accounts = {mode: {each["unit"]: each for each in modes[mode]["counts"]} for mode in modes}
    for unit in dict.fromkeys(unit for account in accounts.values() for unit in account):
        here = {mode: account.get(unit) for mode, account in accounts.items()}
        reasons = dict.fromkeys(reason for each in here.values() if each for reason in each["rejected"])
        rows.append({"unit": unit, "what": "in", **{mode: each and each["in"] for mode, each in here.items()}})
        for reason in reasons:
            losses = {mode: each and each["rejected"].get(reason, 0) for mode, each in here.items()}
            rows.append({"unit": unit, "what": f"lost: {reason}", **losses})
        rows.append({"unit": unit, "what": "kept", **{mode: each and each["out"] for mode, each in here.items()}})
    return rows


def _account(results: Path, account: Entry) -> dict[str, Any]:
    """What a stage counted, and its histograms as plots."""
    found = _read(results / account["funnel"])
    return {**found, "panels": [plots.histogram(name, each) for name, each in found["histograms"].items()]}
