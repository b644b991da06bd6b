"""Curves of trainings: of one, a panel for each of its measures; of one with variants, all of them in each panel."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from amberline.core.manifests import ManifestError
from amberline.report import plots
from amberline.training.curve import damaged_line, read_metrics

# Panels of a training's curves: those are drawn whose every column is there. Held-out values join where there are any.
PANELS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("loss (nats)", {"training": "loss"}),
    ("reward accuracy (share of pairs)", {"training": "rewards/accuracies"}),
    ("reward margin (nats × β)", {"training": "rewards/margins"}),
    ("rewards (nats × β)", {"chosen": "rewards/chosen", "rejected": "rewards/rejected"}),
    ("log p of the responses (nats)", {"chosen": "logps/chosen", "rejected": "logps/rejected"}),
    ("gradient norm (L2)", {"before clipping": "grad_norm"}),
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


def curves(path: Path) -> Iterator[str]:
    """The curves of a training: what is known to matter first, then whatever else its objective measured."""
    rows = _rows(path)
    for title, columns in _panels(rows):
        yield plots.curve(title, _series(rows, columns))


def compared_curves(results: Path, training: Mapping[str, Any]) -> Iterator[str]:
    """The curves of a training and of its variants: a panel for each measure, and for each held-out one."""
    base, *variants = [_rows(results / each["metrics"]) for each in (training, *training["variants"])]
    styles = [each["style"] for each in training["variants"]]
    for title, columns in _panels(base):
        for name, key in columns.items():
            alone = title if len(columns) == 1 else f"{title}, {name}"
            for heading, column in ((alone, key), (f"{alone}, held out", f"{HELDOUT}{key}")):
                if column in base:
                    drawn = [(_points(rows, column), style) for rows, style in zip(variants, styles, strict=True)]
                    yield plots.compared(heading, _points(base, column), drawn)


def _rows(path: Path) -> pd.DataFrame:
    if (line := damaged_line(path)) is not None:
        raise ManifestError(f"{path} is damaged (line {line}): delete it and make that stage again")
    return pd.DataFrame(read_metrics(path))


def _panels(rows: pd.DataFrame) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The panels of what was measured, with the columns in them."""
    for title, columns in PANELS:
        if set(columns.values()) <= set(rows):
            yield title, columns
    for name in rows.columns:
        if name not in NOT_DRAWN and not name.startswith(HELDOUT) and pd.api.types.is_numeric_dtype(rows[name]):
            yield name.replace("_", " "), {"training": name}


def _series(rows: pd.DataFrame, columns: Mapping[str, str]) -> plots.Series:
    """Steps and values by name, with the held-out values of the same columns."""
    only = len(columns) == 1
    heldout = {"held out" if only else f"{name}, held out": f"{HELDOUT}{key}" for name, key in columns.items()}
    return {name: _points(rows, key) for name, key in {**columns, **heldout}.items() if key in rows}


def _points(rows: pd.DataFrame, column: str) -> tuple[Sequence[float], Sequence[float]]:
    """Steps and values of a column; none where a variant did not measure it."""
    if column not in rows:
        return [], []
    known = rows[["step", column]].dropna()
    return known["step"].tolist(), known[column].tolist()
