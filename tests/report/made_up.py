"""Recipes, and results folders with made-up figures, for tests of the report."""

import json
from pathlib import Path

from amberline.core.digests import canonical
from amberline.core.settings import leaves
from amberline.recipe import paths
from amberline.recipe.check import check_recipe
from amberline.recipe.files import PUBLISHED, put_on_top, read_recipe
from amberline.report.contents import contents, every
from amberline.report.page import build_page

HISTOGRAM = {"edges": [0, 1, 2, 3, 4, 6, 8], "counts": [0, 0, 5, 1, 9, 2]}
FUNNEL = {
    "counts": [{"unit": "rows", "in": 12345, "out": 12300, "rejected": {"too_long": 40, "empty": 5}}],
    "notes": {"turns_joined": 7},
    "histograms": {"tokens in a row": HISTOGRAM},
}
MADE_WITH = {"code": "c" * 64, "packages": {"torch": "2.13.0"}, "inputs": {"tokens": "t"}}
NO_JOBS = {"jobs": [], "missing": None}

TEN_MODELS = {
    "models": {
        "safe.v1.5": {"like": "ambersafe", "title": "Safe 1.5", "beta": 0.5},
        "weak": {"like": "ambersafe", "beta": 0.05},
        "direct": {"like": "ambersafe", "from": "amberchat", "beta": 0.3},
        "best": {"like": "ambersafe", "export": "best"},
        "again": {"like": "ambersafe-sft", "seed": 1},
        "further": {"like": "ambersafe", "from": "ambersafe", "seed": 3},
    },
}


def recipe_of(*more):
    """The published recipe with others on top of it."""
    values = read_recipe([PUBLISHED])
    for each in more:
        values = put_on_top(values, each)
    # What a node that was taken out runs on.
    removed = {name for each in more for name, node in each.get("models", {}).items() if node is None}
    values["hardware"] = {name: keys for name, keys in values["hardware"].items() if name not in removed}
    return check_recipe(values, files=False)


def settings_of(recipe, **more):
    """What the rule hands to the program, without deviations."""
    sources = [described(name, node) for name, node in recipe.nodes.sources.items()]
    return json.loads(canonical({**contents(recipe), "deviations": {}, "sources": sources} | more))


def described(name, source):
    return {key: getattr(source, key) for key in ("repository", "revision", "file", "licence")} | {"name": name}


def page_of(recipe, results, *, jobs=NO_JOBS, figures=None, **more):
    """The page of a recipe over made-up results; `figures` are metrics by evaluation and model."""
    settings = settings_of(recipe, **more)
    write_results(results, settings, figures or {})
    return build_page(results, settings, "torch==2.13.0\n", jobs, commit="v1.0-3-g0123456789ab", machine="a machine")


def write_results(results, settings, figures):
    """Every file that the contents of a page name."""
    for each in every(settings["data"]):
        write(results / each["funnel"], FUNNEL)
    for each in every(settings["both_modes"]):
        write(results / each["file"], {"fastchat": FUNNEL, "lossless": {**FUNNEL, "counts": []}})
    for path in settings["raw"].values():
        write(results / paths.manifest(path), {"facts": {"sha256": "5" * 64}})
    for each in every(settings["models"]):
        write(
            results / paths.manifest(each["folder"]),
            {"digest": "d" * 64, "facts": {"commit": "e" * 40, "parameters": 231744}},
        )
    for each in every(settings["trainings"]):
        facts = {"steps": 2, "examples": 16, "loss_tokens": 4321, "weights_sha256": "3" * 64}
        write(results / paths.manifest(each["run"]), {"facts": {**facts, "made_with": MADE_WITH, "earlier": []}})
        write_curve(results / each["metrics"], preferences=each["objective"] == "dpo")
    for evaluation in settings["evaluations"]:
        for place, model in enumerate([*evaluation["models"], *evaluation["variants"]]):
            found = made_up_metrics(evaluation, model, place)
            write(results / model["file"], found | figures.get(evaluation["name"], {}).get(model["name"], {}))


def made_up_metrics(evaluation, model, place):
    if evaluation["kind"] == "samples":
        answers = [{"prompt": f"Question {number}?", "answer": f"{model['title']} says {number}"} for number in (1, 2)]
        return {"tokens": 9, "template": "none", "answers": answers}
    if evaluation["kind"] == "perplexity":
        return {"perplexity": 1.25 + place, "perplexity_tokens": 1121}
    known = evaluation["of_reference"] if model["is_reference"] else {}
    return {"rewards/accuracies": 0.8125, "rewards/margins": 2.0, "logps/accuracies": 0.75, "pairs": 95, **known}


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def write_curve(path, *, preferences, **more):
    """Three steps, with held-out values before the first."""
    rows = [{"step": 0, "heldout/loss": 1.0}]
    rows += [
        {"step": step, "epoch": 1.0, "loss": 1 / step, "grad_norm": 0.5, "learning_rate": 1e-5, **more}
        for step in (1, 2, 3)
    ]
    if preferences:
        for row in rows[1:]:
            row |= {"rewards/accuracies": 0.5, "rewards/margins": 0.1}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def node_names(file: Path = PUBLISHED):
    """The names and titles of the nodes of the published recipe."""
    values = read_recipe([file])
    names = [name for section in ("sources", "datasets", "models", "evaluations") for name in values[section]]
    return names + [value for key, value in leaves(values["models"]) if key.endswith(".title") and value]
