"""Plots of the report, as SVG text that stands inside the page."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

AMBER, SLATE, GREEN, RED = "#c77700", "#44546a", "#3a7d44", "#b23a48"
COLOURS = (AMBER, SLATE, GREEN, RED)
PANELS_IN_A_ROW = 3

plt.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "amberline",  # the same plot gives the same bytes
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
    }
)


def curves(panels: Sequence[tuple[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]]) -> str:
    """Panels beside each other, each (title, {name: (steps, values)}). A short series gets markers."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 2.4), squeeze=False)
    for axis, (title, series) in zip(axes[0], panels, strict=True):
        for colour, (name, (steps, values)) in zip(COLOURS, series.items(), strict=False):
            axis.plot(steps, values, color=colour, label=name, marker="o" if len(steps) < 8 else None, linewidth=1.3)
        _finish(axis, title, "optimizer step", legend=len(series) > 1)
    return _svg(figure)


def histograms(panels: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Panels in rows of three, each (title, histogram): `counts[i]` is the bin from `edges[i]` to the next edge."""
    rows = -(-len(panels) // PANELS_IN_A_ROW)
    figure, axes = plt.subplots(rows, PANELS_IN_A_ROW, figsize=(3.4 * PANELS_IN_A_ROW, 2.3 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, histogram) in zip(axes.flat, panels, strict=False):
        edges, counts = histogram["edges"], histogram["counts"]
        first = next((index for index, count in enumerate(counts) if count), 0)
        names = [_bin_name(edges, index) for index in range(first, len(counts))]
        axis.bar(range(len(names)), counts[first:], color=AMBER, width=0.9)
        every = max(1, len(names) // 8)
        axis.set_xticks(range(0, len(names), every), names[::every], rotation=45, ha="right")
        _finish(axis, title, "", legend=False)
    return _svg(figure)


def _bin_name(edges: Sequence[int], index: int) -> str:
    if index + 1 == len(edges):
        return f"{edges[index]}+"
    last = edges[index + 1] - 1
    return str(edges[index]) if last == edges[index] else f"{edges[index]}–{last}"


def bars(title: str, values: Mapping[str, float], unit: str) -> str:
    """One horizontal bar a name, with its value written behind it."""
    figure, axis = plt.subplots(figsize=(5, 0.42 * len(values) + 0.5))
    names = list(values)
    drawn = axis.barh(range(len(names)), list(values.values()), color=[COLOURS[0], *[SLATE] * (len(names) - 1)])
    axis.bar_label(drawn, fmt="%.3g", padding=3)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    _finish(axis, title, unit, legend=False)
    return _svg(figure)


def _finish(axis: Axes, title: str, unit: str, *, legend: bool) -> None:
    axis.set_title(title)
    axis.set_xlabel(unit)
    if legend:
        axis.legend(frameon=False, fontsize=8)


def _svg(figure: Figure) -> str:
    figure.tight_layout()
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    # Only the element itself can stand inside an HTML page.
    return re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.DOTALL)
