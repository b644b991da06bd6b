"""The report: one page that needs no other file, every figure in it read from a file of the run.

What it shows, and under which titles, `contents` tells of the recipe; no node is known here by its name.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from amberline.recipe import paths
from amberline.report import plots, text
from amberline.report.measured import evaluation_view, samples_view, tile
from amberline.training.staleness import kept_changes

# Panels of a training's curves: those are drawn whose every column is there. Held-out values join where there are any.
PANELS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("loss", {"training": "loss"}),
    ("reward accuracy", {"training": "rewards/accuracies"}),
    ("reward margin", {"training": "rewards/margins"}),
    ("rewards", {"chosen": "rewards/chosen", "rejected": "rewards/rejected"}),
    ("log p of the responses", {"chosen": "logps/chosen", "rejected": "logps/rejected"}),
    ("gradient norm", {"before clipping": "grad_norm"}),
    ("learning rate", {"learning rate": "learning_rate"}),
)
# Columns that count, or that say what another panel says.
NOT_DRAWN = {
    "step",
    "epoch",
    "examples",
    "tokens",
    "loss_tokens",
    *(key for _, keys in PANELS for key in keys.values()),
}
HELDOUT = "heldout/"


def build_page(results: Path, settings: Mapping[str, Any], lock: str, jobs: Mapping[str, Any]) -> str:
    """The page as HTML. `settings` holds the contents of the page, and what differs from the published recipe.

    `jobs` are the run's Slurm jobs and why there are no figures of them, as `cluster.accounts` tells.
    """
    found = [(each, _metrics(results, each)) for each in settings["evaluations"]]
    accounts = [{**each, **_read(results / each["funnel"])} for each in settings["data"]]
    trainings = [_training(results, each) for each in settings["trainings"]]
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            trained=_trained(settings),
            tiles=list(filter(None, (tile(*each) for each in found))),
            accounts=accounts,
            both_modes=[
                {**each, "rows": _side_by_side(_read(results / each["file"]))} for each in settings["both_modes"]
            ],
            histograms=[_histograms(each) for each in accounts if each["histograms"]],
            trainings=trainings,
            evaluations=[evaluation_view(*each) for each in found if each[0]["columns"]],
            samples=list(filter(None, (samples_view(*each) for each in found))),
            jobs=jobs["jobs"],
            unaccounted=jobs["missing"],
            methods=settings["methods"],
            sources=[_source(results, each, settings["raw"]) for each in settings["sources"]],
            models=[{**each, **_read(results / paths.manifest(each["folder"]))} for each in settings["models"]],
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
    return json.loads(path.read_text(encoding="utf-8"))


def _trained(settings: Mapping[str, Any]) -> list[str]:
    """The titles of the models that are trained here."""
    return [title for each in settings["trainings"] for title in (each["title"], *each["shared_by"])]


def _metrics(results: Path, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation found, by the name of the model."""
    return {each["name"]: _read(results / each["file"]) for each in evaluation["models"]}


def _source(results: Path, source: Mapping[str, Any], raw: Mapping[str, str]) -> dict[str, Any]:
    """A source or a pretrained model as the configuration describes it, and the content or commit that was found."""
    name = source["name"]
    if name in raw:
        return {**source, "sha256": _read(results / paths.manifest(raw[name]))["facts"]["sha256"]}
    made = results / paths.manifest(paths.model(name))
    commit = _read(made)["facts"].get("commit") if made.exists() else None
    return {**source, "revision": commit or source["revision"], "sha256": None}


def _training(results: Path, training: Mapping[str, Any]) -> dict[str, Any]:
    """A training, its curves, and what made its weights: `made_with`, `earlier`, and what it is `kept` for."""
    facts: dict[str, Any] = _read(results / paths.manifest(training["run"]))["facts"]
    return {**facts, **training, "kept": kept_changes(facts), "curves": list(_curves(results / training["metrics"]))}


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


def _histograms(account: Mapping[str, Any]) -> dict[str, Any]:
    """The histograms that a stage took."""
    panels = [plots.histogram(name, each) for name, each in account["histograms"].items()]
    return {"title": account["title"], "for_training": account["for_training"], "panels": panels}


def _curves(path: Path) -> Iterator[str]:
    """The curves of a training: what is known to matter first, then whatever else its objective measured."""
    rows = pd.read_json(path, lines=True)
    for title, columns in PANELS:
        if set(columns.values()) <= set(rows):
            yield plots.curve(title, _series(rows, columns))
    for name in rows.columns:
        if name not in NOT_DRAWN and not name.startswith(HELDOUT) and pd.api.types.is_numeric_dtype(rows[name]):
            yield plots.curve(name.replace("_", " "), _series(rows, {"training": name}))


def _series(rows: pd.DataFrame, columns: Mapping[str, str]) -> plots.Series:
    """Steps and values by name, with the held-out values of the same columns."""
    only = len(columns) == 1
    heldout = {"held out" if only else f"{name}, held out": f"{HELDOUT}{key}" for name, key in columns.items()}
    found: dict[str, Any] = {}
    for name, key in {**columns, **heldout}.items():
        if key in rows:
            known = rows[["step", key]].dropna()
            found[name] = (known["step"].tolist(), known[key].tolist())
    return found
