"""What evaluations found: tables, a plot and a tile for each, and samples side by side."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from amberline.report import plots
from amberline.report.text import column, number

Evaluation = Mapping[str, Any]  # as `contents` describes it
Metrics = Mapping[str, Mapping[str, Any]]  # what was found, by the name of the model


def evaluation_view(evaluation: Evaluation, metrics: Metrics) -> dict[str, Any]:
    """An evaluation as the page shows it."""
    return {
        "name": evaluation["name"],
        "title": f"{evaluation['name']}: {evaluation['kind']} on {evaluation['on']}",
        "about": evaluation["about"],
        "columns": list(_titles(evaluation).values()),
        "rows": list(_rows(evaluation, metrics)),
        "own_beta_columns": [_titles(evaluation)[key] for key in _own_beta_columns(evaluation)],
        "reference": evaluation["reference"],
        "beta": evaluation["settings"].get("beta"),
        "notes": list(_notes(evaluation, metrics)),
        "plot": _plot(evaluation, metrics),
    }


def _titles(evaluation: Evaluation) -> dict[str, str]:
    """The metrics of the table, in their order, with their titles."""
    return dict(evaluation["columns"])


def _rows(evaluation: Evaluation, metrics: Metrics) -> Iterator[dict[str, Any]]:
    """A row a model: its title, a tag, its figures, and those at its own beta."""
    models, extra = evaluation["models"], _own_beta_columns(evaluation)
    figures = [column([metrics[each["name"]].get(key) for each in models]) for key in _titles(evaluation)]
    own = [column([_at_own_beta(evaluation, each, metrics[each["name"]].get(key)) for each in models]) for key in extra]
    for index, model in enumerate(models):
        yield {
            "title": model["title"],
            "tag": _tag(evaluation, model),
            "is_reference": model["is_reference"],
            "figures": [each[index] for each in figures],
            "at_own_beta": [each[index] for each in own],
            "own_beta": number(model["own_beta"]) if _has_own_beta(evaluation, model) else None,
        }


def _tag(evaluation: Evaluation, model: Mapping[str, Any]) -> str:
    """How a model stands to the reference, where that limits what its figures say."""
    if evaluation["reference"] is None or model["from_reference"]:
        return ""
    return "reference" if model["is_reference"] else "not from the reference"


def _has_own_beta(evaluation: Evaluation, model: Mapping[str, Any]) -> bool:
    """Whether a model was trained against the same reference with another beta."""
    beta = evaluation["settings"].get("beta")
    return beta is not None and model["own_beta"] not in {None, beta}


def _own_beta_columns(evaluation: Evaluation) -> list[str]:
    """The metrics that are shown at other betas, too."""
    shown = any(_has_own_beta(evaluation, model) for model in evaluation["models"])
    return [key for key in evaluation["linear_in_beta"] if shown and key in _titles(evaluation)]


def _at_own_beta(evaluation: Evaluation, model: Mapping[str, Any], value: float | None) -> float | None:
    """A metric that is linear in beta, at the beta that the model was trained with."""
    if value is None or not _has_own_beta(evaluation, model):
        return None
    return float(value * model["own_beta"] / evaluation["settings"]["beta"])


def _notes(evaluation: Evaluation, metrics: Metrics) -> Iterator[str]:
    """What must be known to read the table."""
    models, columns = evaluation["models"], _titles(evaluation)
    if evaluation["headline"] and all(metrics[each["name"]].get(evaluation["headline"]) is None for each in models):
        yield f"There was nothing to measure on: there are no {evaluation['on']}."
    reference, known = evaluation["reference"], evaluation["of_reference"]
    if reference and known and any(each["is_reference"] for each in models):
        figures = " and ".join(f"{title} {number(known[key])}" for key, title in columns.items() if key in known)
        yield f"“{reference}” is the reference itself: {figures} by definition."
    if any(_tag(evaluation, each) == "not from the reference" for each in models):
        yield (
            f"Models marked “not from the reference” were not trained from “{reference}”: their rewards are relative "
            "to it all the same, and say how far they are from it, not what their own training did."
        )
    if extra := _own_beta_columns(evaluation):
        names = " and ".join(columns[key] for key in extra)
        yield (
            f"At its own β: {names} of a model that was trained against this reference with another β. It is "
            "proportional to β; accuracies do not change with β."
        )


def _plot(evaluation: Evaluation, metrics: Metrics) -> str | None:
    """Bars of the headline metric; None where there is none."""
    headline = evaluation["headline"]
    values = [(each, metrics[each["name"]].get(headline)) for each in evaluation["models"] if headline]
    bars = [
        plots.Bar(each["title"], value, number(value), quiet=each["is_reference"])
        for each, value in values
        if value is not None
    ]
    return plots.bars(_titles(evaluation).get(headline, str(headline)), bars) if bars else None


def tile(evaluation: Evaluation, metrics: Metrics) -> dict[str, str] | None:
    """The headline of the model that was trained last on what is measured on, and of the one that it started from."""
    headline = evaluation["headline"]
    if not headline:
        return None
    model = _told_of(evaluation["models"])
    value = metrics[model["name"]].get(headline)
    return {
        "label": f"{model['title']}, {_titles(evaluation).get(headline, headline)}",
        "value": number(value),
        "below": "there was nothing to measure on" if value is None else _start(evaluation, model, metrics),
        "evaluation": evaluation["name"],
    }


def _told_of(models: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The last model that was trained on what is measured on; else the last one. The reference only if it is alone."""
    others = [each for each in models if not each["is_reference"]] or models
    return ([each for each in others if each["trained_on_it"]] or others)[-1]


def _start(evaluation: Evaluation, model: Mapping[str, Any], metrics: Metrics) -> str:
    """The headline of the model that another one started from."""
    if model["from"] is None:
        return "not trained here"
    if model["from"] not in metrics:
        return f"it started from {model['from_title']}, which was not measured"
    start = next(each for each in evaluation["models"] if each["name"] == model["from"])
    by_definition = " (reference)" if start["is_reference"] else ""
    return (
        f"it started from {start['title']}: {number(metrics[start['name']].get(evaluation['headline']))}{by_definition}"
    )


def samples_view(evaluation: Evaluation, metrics: Metrics) -> dict[str, Any] | None:
    """Prompts, each with every model's answer; None for an evaluation without answers."""
    models = [each for each in evaluation["models"] if "answers" in metrics[each["name"]]]
    if not models:
        return None
    answers: dict[str, list[tuple[str, str]]] = {}
    for model in models:
        for each in metrics[model["name"]]["answers"]:
            answers.setdefault(each["prompt"], []).append((model["title"], each["answer"]))
    return {
        "title": f"{evaluation['name']}: answers to {evaluation['on']}",
        "tokens": max(metrics[each["name"]]["tokens"] for each in models),
        "templates": [(each["title"], metrics[each["name"]]["template"]) for each in models],
        "prompts": list(answers.items()),
    }
