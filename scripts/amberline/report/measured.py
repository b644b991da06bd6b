"""What evaluations found: tables, a plot and a tile for each, and samples side by side."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from amberline.report import plots
from amberline.report.text import decimals, difference, figure, mean_and_deviation, number

Evaluation = Mapping[str, Any]  # as `contents` describes it
Row = Mapping[str, Any]  # a model in it
Metrics = Mapping[str, Mapping[str, Any]]  # what was found, by file

SEEDS_NAMED = 6  # of more seeds, the number alone is said


def evaluation_view(evaluation: Evaluation, metrics: Metrics) -> dict[str, Any]:
    """An evaluation as the page shows it."""
    return {
        "name": evaluation["name"],
        "title": f"{evaluation['name']}: {evaluation['kind']} on {evaluation['on']}",
        "about": evaluation["about"],
        "columns": list(_titles(evaluation).values()),
        "compares": bool(evaluation["variants"]),
        "other_references": any(each["against"] for each in evaluation["variants"]),
        "rows": list(_rows(evaluation, metrics)),
        "own_beta_columns": [_titles(evaluation)[key] for key in _own_beta_columns(evaluation)],
        "reference": evaluation["reference"],
        "beta": evaluation["settings"].get("beta"),
        "notes": [*_notes(evaluation, metrics), *_notes_on_variants(evaluation)],
        "plot": _plot(evaluation, metrics),
    }


def _titles(evaluation: Evaluation) -> dict[str, str]:
    """The metrics of the table, in their order, with their titles."""
    return dict(evaluation["columns"])


def _all_rows(evaluation: Evaluation) -> list[Row]:
    """Every model of the table: those of the base and those of variants."""
    return [*evaluation["models"], *evaluation["variants"]]


def _rows(evaluation: Evaluation, metrics: Metrics) -> Iterator[dict[str, Any]]:
    """A row a model, the rows of its variants under it, and then what several seeds have in common."""
    figures = _Figures(evaluation, metrics)
    for model in evaluation["models"]:
        yield figures.of_model(model)
        yield from (figures.of_variant(each, model) for each in evaluation["variants"] if each["of"] == model["name"])
        yield from (figures.of_seeds(each) for each in evaluation["seeds"] if each["of"] == model["name"])
    known = {model["name"] for model in evaluation["models"]}
    yield from (figures.of_variant(each, None) for each in evaluation["variants"] if each["of"] not in known)


class _Figures:
    """The cells of a table: as many decimals everywhere in a column."""

    def __init__(self, evaluation: Evaluation, metrics: Metrics) -> None:
        self._evaluation, self._metrics = evaluation, metrics
        self._keys, self._extra = list(_titles(evaluation)), _own_beta_columns(evaluation)
        rows = _all_rows(evaluation)
        self._places = [decimals([self._value(row, key) for row in rows]) for key in self._keys]
        self._places_at_own_beta = [decimals([self._at_own_beta(row, key) for row in rows]) for key in self._extra]

    def of_model(self, model: Row) -> dict[str, Any]:
        """The row of a model of the base."""
        return {**self._cells(model), "kind": "base", "differences": [""] * len(self._keys), "notes": _also(model)}

    def of_variant(self, row: Row, base: Row | None) -> dict[str, Any]:
        """The row of a variant, with its differences to the base; `base` is None if that is not measured."""
        differences = [
            difference(self._value(row, key), self._value(base, key), places) if base else ""
            for key, places in zip(self._keys, self._places, strict=True)
        ]
        title = f"variant {row['variant']}" if base else row["title"]
        against = [f"against {row['against']}"] if row["against"] else []
        notes = [*against, *row["notes"], *_also(row)]
        cells = {"kind": "variant", "title": title, "differences": differences, "notes": notes}
        # What holds for the base and its variants is said once.
        tags = [_tag(self._evaluation, each) for each in (row, base) if each]
        is_known = tags[1:] == tags[:1] and not row["is_reference"]
        return {**self._cells(row), **cells, "tag": "" if is_known else tags[0]}

    def of_seeds(self, seeds: Mapping[str, Any]) -> dict[str, Any]:
        """The row of a model that was made with several seeds."""
        found = [self._metrics[file] for file in seeds["files"]]
        means = [
            mean_and_deviation([each.get(key) for each in found], places)
            for key, places in zip(self._keys, self._places, strict=True)
        ]
        names = ", ".join(seeds["names"]) if len(seeds["names"]) <= SEEDS_NAMED else ""
        return {
            "kind": "seeds",
            "file": None,
            "title": f"mean ± sd, n = {len(found)}",
            "tag": "",
            "is_reference": False,
            "figures": [mean for mean, _ in means],
            "differences": [deviation for _, deviation in means],
            "at_own_beta": [""] * len(self._extra),
            "own_beta": None,
            "notes": [*filter(None, [", ".join(seeds["changes"]), names])],
        }

    def _cells(self, row: Row) -> dict[str, Any]:
        return {
            "title": row["title"],
            "file": row["file"],
            "tag": _tag(self._evaluation, row),
            "is_reference": row["is_reference"],
            "figures": [
                figure(self._value(row, key), places) for key, places in zip(self._keys, self._places, strict=True)
            ],
            "at_own_beta": [
                figure(self._at_own_beta(row, key), places)
                for key, places in zip(self._extra, self._places_at_own_beta, strict=True)
            ],
            "own_beta": number(row["own_beta"]) if _has_own_beta(self._evaluation, row) else None,
        }

    def _value(self, row: Row, key: str) -> Any:
        return self._metrics[row["file"]].get(key)

    def _at_own_beta(self, row: Row, key: str) -> float | None:
        """A metric that is linear in beta, at the beta that the model was trained with."""
        value = self._value(row, key)
        if value is None or not _has_own_beta(self._evaluation, row):
            return None
        return float(value * row["own_beta"] / self._evaluation["settings"]["beta"])


def _also(row: Row) -> list[str]:
    """Of which variants else a row is."""
    return [f"also {row['also']}"] if row["also"] else []


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
    shown = any(_has_own_beta(evaluation, row) for row in _all_rows(evaluation))
    return [key for key in evaluation["linear_in_beta"] if shown and key in _titles(evaluation)]


def _notes(evaluation: Evaluation, metrics: Metrics) -> Iterator[str]:
    """What must be known to read the table."""
    models, columns = evaluation["models"], _titles(evaluation)
    if evaluation["headline"] and all(metrics[each["file"]].get(evaluation["headline"]) is None for each in models):
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


def _notes_on_variants(evaluation: Evaluation) -> Iterator[str]:
    """What must be known to read the rows of variants."""
    variants = evaluation["variants"]
    if variants:
        yield "Δ: difference to the model of the base recipe; = where they are equal."
    if any(each["against"] for each in variants):
        yield (
            f"Rows “against” another model have that one as their reference, not “{evaluation['reference']}”: their "
            "figures say how a model stands to its own reference, and compare with other rows in this sense alone."
        )
    if any(each["notes"] for each in variants):
        yield (
            "A row that names data or settings was measured on those or with those, not as in the base recipe: its "
            "difference comes of that, too."
        )
    if evaluation["seeds"]:
        yield "Mean ± sd: over models that differ in the seed of a training alone; sd is the sample standard deviation."


def _plot(evaluation: Evaluation, metrics: Metrics) -> str | None:
    """Bars of the headline metric; None where there is none."""
    headline = evaluation["headline"]
    values = [(each, metrics[each["file"]].get(headline)) for each in evaluation["models"] if headline]
    others: dict[str, list[float]] = {each["name"]: [] for each in evaluation["models"]}
    for each in evaluation["variants"]:
        if (value := metrics[each["file"]].get(headline)) is not None:
            others.setdefault(each["of"], []).append(value)
    bars = [
        plots.Bar(each["title"], value, number(value), each["is_reference"], tuple(others[each["name"]]))
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
    value = metrics[model["file"]].get(headline)
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
    start = next((each for each in evaluation["models"] if each["name"] == model["from"]), None)
    if start is None:
        return f"it started from {model['from_title']}, which was not measured"
    by_definition = " (reference)" if start["is_reference"] else ""
    return (
        f"it started from {start['title']}: {number(metrics[start['file']].get(evaluation['headline']))}{by_definition}"
    )


def samples_view(evaluation: Evaluation, metrics: Metrics) -> dict[str, Any] | None:
    """Prompts, each with every model's answer; None for an evaluation without answers."""
    models = [each for each in evaluation["models"] if "answers" in metrics[each["file"]]]
    if not models:
        return None
    of_base = _answers(((each, each["title"]) for each in models), metrics)
    variants = [(each, _variant_title(each)) for each in evaluation["variants"]]
    of_variants = _answers(variants, metrics)
    asked = {each["name"]: metrics[each["file"]]["template"] for each in models}
    otherwise = [
        (each, title) for each, title in variants if asked.get(each["of"]) != metrics[each["file"]]["template"]
    ]
    return {
        "title": f"{evaluation['name']}: answers to {evaluation['on']}",
        "tokens": max(metrics[each["file"]]["tokens"] for each in models),
        "templates": [
            (title, metrics[each["file"]]["template"])
            for each, title in (*((each, each["title"]) for each in models), *otherwise)
        ],
        "prompts": [
            (prompt, of_base.get(prompt, []), of_variants.get(prompt, [])) for prompt in {**of_base, **of_variants}
        ],
    }


def _answers(rows: Iterable[tuple[Row, str]], metrics: Metrics) -> dict[str, list[tuple[str, str]]]:
    """By prompt, titles and answers."""
    answers: dict[str, list[tuple[str, str]]] = {}
    for row, title in rows:
        for each in metrics[row["file"]]["answers"]:
            answers.setdefault(each["prompt"], []).append((title, each["answer"]))
    return answers


def _variant_title(row: Row) -> str:
    """The title of a model with its variant; the model may be the base's, and asked otherwise."""
    named = f"variant {row['variant']}"
    return row["title"] if row["title"].endswith(named) else f"{row['title']}, {named}"
