"""The report: one page that needs no other file, every figure in it read from a file of the run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from amberline.report import plots
from amberline.training.staleness import kept_changes

STAGES = {
    "amberchat": "AmberChat finetune",
    "sft": "AmberSafe: finetune on preferred responses",
    "dpo": "AmberSafe: direct preference optimisation",
}
MODELS = {
    "base": "base model",
    "amberchat": "AmberChat",
    "ambersafe-sft": "AmberSafe, SFT only",
    "ambersafe": "AmberSafe",
}
FUNNELS = {
    "mix": "Mix of ShareGPT and evol-instruct",
    "split": "Split into chunks",
    "tokenise_conversations": "Tokens and loss masks",
    "split-heldout": "Split, held-out conversations",
    "tokenise_conversations-heldout": "Tokens, held-out conversations",
    "select_safe_pairs-train": "Safe pairs, train",
    "tokenise_preferences-train": "Preference tokens, train",
    "select_safe_pairs-test": "Safe pairs, test",
    "tokenise_preferences-test": "Preference tokens, test",
}


def build_page(results: Path, settings: Mapping[str, Any], lock: str, jobs: Mapping[str, Any]) -> str:
    """The page as HTML. `settings` holds the configuration and its deviations from the published recipe.

    `jobs` are the run's Slurm jobs and why there are no figures of them, as `cluster.accounts` tells.
    """
    variants = settings["configuration"]["ambersafe"]["variants"]
    models = MODELS | {f"ambersafe-{name}": f"AmberSafe, {name}" for name in variants}
    funnels = {name: _read(results / "funnels" / f"{name}.json") for name in FUNNELS}
    evaluation = {name: _read(results / "evaluation" / f"{name}.json") for name in models}
    manifests = {name: _read(results / "models" / name / "manifest.json") for name in ("amberchat", "ambersafe")}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "duration": _duration, "gigabytes": _gigabytes, "percent": _percent}
    return environment.get_template("report.html.jinja").render(
        funnels=[(title, funnels[name]) for name, title in FUNNELS.items()],
        comparison=_comparison(_read(results / "funnels" / "split-comparison.json")),
        lengths=_lengths(funnels),
        curves=[(title, _curves(results / "training" / stage / "metrics.jsonl")) for stage, title in STAGES.items()],
        evaluation=[(title, evaluation[name]) for name, title in models.items()],
        evaluation_plot=_evaluation_plot({title: evaluation[name] for name, title in models.items()}),
        jobs=jobs["jobs"],
        unaccounted=jobs["missing"],
        samples=_read(results / "evaluation" / "samples.json"),
        manifests=manifests,
        sources=[_source(results, each) for each in settings["sources"]],
        trainings=[(title, _training(results, stage)) for stage, title in STAGES.items()],
        deviations=settings["deviations"],
        configuration=yaml.safe_dump(settings["configuration"], sort_keys=False, allow_unicode=True, width=110),
        settings=settings["configuration"],
        packages=[line.split("==") for line in lock.splitlines() if "==" in line],
    )


def _source(results: Path, source: Mapping[str, Any]) -> dict[str, Any]:
    """A source as the configuration describes it, and the content that was found."""
    found = next((results / "raw").glob(f"{source['name']}.*.manifest.json"), None)
    return {**source, "sha256": _read(found)["facts"]["sha256"] if found else None}


def _training(results: Path, stage: str) -> dict[str, Any]:
    """Which code and packages made a training's weights: `made_with`, `earlier`, and what `kept` is for."""
    facts: dict[str, Any] = _read(results / "training" / stage / "run.json.manifest.json")["facts"]
    return {**facts, "kept": kept_changes(facts)}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _number(value: Any) -> str:
    """A number as people read it: thousands apart, four figures of a fraction."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _duration(seconds: int | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _gigabytes(size: int | None) -> str:
    """Thousands of Slurm's M, which are MiB: what `memory_gb` asks for."""
    return "–" if size is None else f"{size / (1000 * 2**20):.3g}"


def _percent(part: float | None) -> str:
    return "–" if part is None else f"{part:.0%}"


def _comparison(modes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
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


def _lengths(funnels: Mapping[str, Mapping[str, Any]]) -> str:
    """Histograms that the stages took."""
    panels = [
        (name, histogram)
        for stage in ("split", "tokenise_conversations", "tokenise_preferences-train")
        for name, histogram in funnels[stage]["histograms"].items()
    ]
    return plots.histograms(panels) if panels else ""


def _curves(path: Path) -> str:
    """Loss, gradient norm and learning rate of a training; for preferences, rewards too."""
    rows = pd.read_json(path, lines=True)
    panels = [
        ("loss", _series(rows, {"training": "loss", "held out": "heldout/loss"})),
        ("gradient norm", _series(rows, {"before clipping": "grad_norm"})),
        ("learning rate", _series(rows, {"learning rate": "learning_rate"})),
    ]
    if "rewards/margins" in rows:
        panels[1:] = [
            (
                "reward accuracy",
                _series(rows, {"training": "rewards/accuracies", "held out": "heldout/rewards/accuracies"}),
            ),
            ("reward margin", _series(rows, {"training": "rewards/margins", "held out": "heldout/rewards/margins"})),
        ]
    return plots.curves(panels)


def _series(rows: pd.DataFrame, columns: Mapping[str, str]) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    found: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for name, column in columns.items():
        if column in rows:
            known = rows[["step", column]].dropna()
            found[name] = (known["step"].tolist(), known[column].tolist())
    return found


def _evaluation_plot(evaluation: Mapping[str, Mapping[str, Any]]) -> str:
    accuracy = {name: each["rewards/accuracies"] for name, each in reversed(list(evaluation.items()))}
    return plots.bars("Reward accuracy on unseen test pairs", accuracy, "")
