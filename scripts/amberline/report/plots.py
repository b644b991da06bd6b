"""Plots of the report, as SVG text that stands inside the page. A panel is a picture of its own, so that the page can
set as many beside each other as there is room for.
"""

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

AMBER, SLATE, PALE = "#c77700", "#44546a", "#b9bfc7"
COLOURS = (AMBER, SLATE)
PANEL = (3.6, 2.5)  # inches
MARGINS = {"left": 0.19, "right": 0.98, "top": 0.89}  # the same in all panels, so that they are in line
BINS_NAMED = 7
BINS = 6  # there is room for so many at least, so that a few bars are no wide ones
POINTS = 600  # of a curve; of a longer one, means of so many steps that no more are left
FAR_APART = 50  # largest over smallest value, from which bars stand on a logarithmic axis
# Of curves that are compared, so many points together are drawn at most, but so many of each.
ALL_POINTS, FEWEST_POINTS = 3000, 60
# Curves of variants: neighbours differ in both, and of as many as the product, no two are alike.
VARIANT_COLOURS = ("#0072b2", "#009e73", "#a0439c", "#44546a", "#2fa4dd")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.2, 1.6), (6, 2, 1.2, 2))
LABEL = 24  # characters in a line of a bar's name

Points = tuple[Sequence[float], Sequence[float]]  # steps and values
Series = Mapping[str, Points]  # by name

plt.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "amberline",  # the same plot gives the same bytes
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": SLATE,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
    }
)


@dataclass(frozen=True)
class Bar:
    """A bar of a plot."""

    name: str
    value: float
    text: str  # written behind it
    quiet: bool = False  # drawn pale: a value that is what it is by definition
    others: tuple[float, ...] = ()  # values that are compared with it, drawn as dots


def curve(title: str, series: Series) -> str:
    """Values over optimizer steps. A short series gets markers; a long one is thinned by means."""
    figure, axis = plt.subplots(figsize=PANEL)
    every = 1
    for index, (name, (steps, values)) in enumerate(series.items()):
        # The third and fourth, which are held-out values, have the colours of the first and second.
        colour, style = COLOURS[index % 2], "-" if index < 2 else "--"
        every = max(every, -(-len(steps) // POINTS))
        drawn = [_means(each, -(-len(steps) // POINTS)) for each in (steps, values)]
        axis.plot(
            *drawn,
            style,
            color=colour,
            label=name,
            marker="o" if len(steps) < 12 else None,
            markersize=4,
            linewidth=1.3,
        )
    _finish(axis, title, "optimizer step" if every == 1 else f"optimizer step (means of {every} steps)")
    axis.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    if len(series) > 1:
        axis.legend(frameon=False, fontsize=8)
    figure.subplots_adjust(**MARGINS, bottom=0.18)
    return _svg(figure)


def style_of(place: int | None) -> dict[str, Any]:
    """How the curve of a variant is drawn: no two of ten alike; None: as one of many, in grey."""
    if place is None:
        return {"color": PALE, "linewidth": 0.7, "dashes": ()}
    return {
        "color": VARIANT_COLOURS[place % len(VARIANT_COLOURS)],
        "linewidth": 1.3,
        "dashes": DASHES[place % len(DASHES)],
    }


def compared(title: str, base: Points, variants: Sequence[tuple[Points, int | None]]) -> str:
    """Values of a base over optimizer steps, and those of its variants, each with its style, under it."""
    figure, axis = plt.subplots(figsize=PANEL)
    points = max(FEWEST_POINTS, ALL_POINTS // (1 + len(variants)))
    lines = [(each, style_of(style)) for each, style in sorted(variants, key=lambda each: each[1] is not None)]
    lines.append((base, {"color": AMBER, "linewidth": 2.4, "dashes": ()}))
    every = 1
    for (steps, values), style in lines:
        thinned = -(-len(steps) // points) or 1
        every = max(every, thinned)
        few = {"marker": "o", "markersize": 3 + style["linewidth"] / 2} if len(steps) < 12 else {}
        axis.plot(_means(steps, thinned), _means(values, thinned), **style, **few)
    _finish(axis, title, "optimizer step" if every == 1 else f"optimizer step (means of {every} steps)")
    axis.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    figure.subplots_adjust(**MARGINS, bottom=0.18)
    return _svg(figure)


def legend(training: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The names of curves, each with how its line is drawn; those in grey together, as the last one."""
    grey = [each["variant"] for each in training["variants"] if each["style"] is None]
    found = [{"name": training["name"], "color": AMBER, "linewidth": 3, "dashes": ""}]
    for each in training["variants"]:
        if each["style"] is not None:
            style = style_of(each["style"])
            # Lengths of dashes are multiples of the line's width.
            dashes = " ".join(f"{length * style['linewidth']:.3g}" for length in style["dashes"])
            found.append({**style, "name": each["name"], "linewidth": 1.8, "dashes": dashes})
    if grey:
        found.append({**style_of(None), "name": f"{len(grey)} more: {', '.join(grey)}", "linewidth": 1.2, "dashes": ""})
    return found


def _means(values: Sequence[float], every: int) -> Sequence[float]:
    """The means of so many values each."""
    if every <= 1:
        return values
    groups = [values[start : start + every] for start in range(0, len(values), every)]
    return [sum(group) / len(group) for group in groups]


def histogram(title: str, counted: Mapping[str, Any]) -> str:
    """A histogram: `counts[i]` is the bin from `edges[i]` to the next edge."""
    figure, axis = plt.subplots(figsize=PANEL)
    edges, counts = counted["edges"], counted["counts"]
    first = next((index for index, count in enumerate(counts) if count), 0)
    names = [_bin_name(edges, index) for index in range(first, len(counts))]
    axis.bar(range(len(names)), counts[first:], color=AMBER, width=0.9)
    every = -(-len(names) // BINS_NAMED) or 1
    axis.set_xticks(range(0, len(names), every), names[::every], rotation=35, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.6, max(len(names), BINS) - 0.4)
    axis.yaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    _finish(axis, title, "")
    axis.set_ylabel("count", color=SLATE, fontsize=8)
    figure.subplots_adjust(**MARGINS, bottom=0.26)
    return _svg(figure)


def _bin_name(edges: Sequence[int], index: int) -> str:
    if index + 1 == len(edges):
        return f"{edges[index]:,}+"
    last = edges[index + 1] - 1
    return f"{edges[index]:,}" if last == edges[index] else f"{edges[index]:,}–{last:,}"


def bars(title: str, drawn: Sequence[Bar]) -> str:
    """One horizontal bar each, with its value written behind it."""
    names = ["\n".join(textwrap.wrap(bar.name, LABEL)) or bar.name for bar in drawn]
    # A name of several lines takes the room of more bars.
    rooms = [1 + 0.4 * name.count("\n") for name in names]
    places = [sum(rooms[:index]) + room / 2 for index, room in enumerate(rooms)]
    figure, axis = plt.subplots(figsize=(4.4, 0.32 * sum(rooms) + 0.75))
    values = [value for bar in drawn for value in (bar.value, *bar.others)]
    shapes = axis.barh(
        places, [bar.value for bar in drawn], color=[PALE if bar.quiet else AMBER for bar in drawn], height=0.68
    )
    if compares := any(bar.others for bar in drawn):
        _draw_others(axis, drawn, places)
    else:
        axis.bar_label(shapes, [bar.text for bar in drawn], padding=4)
    axis.set_yticks(places, names)
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    logarithmic = min(values) > 0 and max(values) / min(values) > FAR_APART
    if logarithmic:
        axis.set_xscale("log")
    axis.margins(x=0.18)
    _finish(
        axis,
        title,
        "; ".join(["bars and figures: base; dots: variants"] * compares + ["logarithmic axis"] * logarithmic),
    )
    figure.tight_layout()
    return _svg(figure)


def _draw_others(axis: Axes, drawn: Sequence[Bar], places: Sequence[float]) -> None:
    """Dots on the bars; the values of the bars stand in a column, as behind a bar they would be read as a dot's."""
    for bar, place in zip(drawn, places, strict=True):
        axis.scatter(bar.others, [place] * len(bar.others), s=34, color=SLATE, edgecolors="white", zorder=3)
        axis.annotate(bar.text, (1.02, place), xycoords=axis.get_yaxis_transform(), va="center", color=AMBER)


def _finish(axis: Axes, title: str, unit: str) -> None:
    axis.set_title(title)
    axis.set_xlabel(unit, color=SLATE, fontsize=8)
    axis.tick_params(colors=SLATE, labelsize=8)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    # Only the element itself can stand inside an HTML page.
    return re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.DOTALL)
