"""Plots of benchmarks/RESULTS.md, one function for each kind of result; all write a small PNG."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

FOLDER = Path(__file__).resolve().parent / "plots"
AMBER, SLATE, GREEN = "#c77700", "#44546a", "#3a7d44"

plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10})


def throughput(name: str, summary: dict[str, Any], unit: str) -> Path:
    """Speed and memory of every contestant, beside each other."""
    figure, (speed, memory) = plt.subplots(1, 2, figsize=(9, 0.42 * len(summary) + 0.9), sharey=True)
    _bars(speed, {who: each["per_second"] for who, each in summary.items()}, f"{unit} a second")
    _bars(memory, {who: each["peak_bytes"] / 1e9 for who, each in summary.items()}, "peak memory, GB")
    return _write(figure, name)


def predictions(name: str, summary: dict[str, Any]) -> Path:
    """Predicted and measured peaks and step times, in pairs."""
    figure, (memory, time) = plt.subplots(1, 2, figsize=(9.5, 0.45 * len(summary) + 0.9), sharey=True)
    _pairs(memory, summary, ("peak_bytes", "predicted_bytes"), 1e9, "peak memory, GB")
    _pairs(time, summary, ("step_seconds", "predicted_step_seconds"), 1, "seconds a step")
    memory.set_yticks([place + 0.19 for place in range(len(summary))], list(summary))
    memory.invert_yaxis()
    time.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8)
    return _write(figure, name)


def growth(name: str, points: list[dict[str, Any]], exponents: dict[str, float]) -> Path:
    """Processor seconds of a step over its tokens, a line for each model and number of processes."""
    figure, axis = plt.subplots(figsize=(8, 3.4))
    models = sorted({each["parameters"] for each in points})
    for model, colour in zip(models, (AMBER, GREEN, SLATE), strict=True):
        for processes, style in ((1, "-o"), (2, "--s")):
            line = [each for each in points if (each["parameters"], each["processes"]) == (model, processes)]
            label = f"{model / 1e6:.1f}M parameters, {processes} process{'es' if processes > 1 else ''}"
            axis.plot(
                [each["tokens"] for each in line],
                [each["cpu_seconds"] for each in line],
                style,
                color=colour,
                label=label,
                markersize=4,
                linewidth=1.2,
            )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(sorted({each["tokens"] for each in points}), sorted({each["tokens"] for each in points}))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("tokens of a step")
    axis.set_ylabel("processor seconds of a step")
    axis.set_title(
        f"grows as tokens^{exponents['tokens']:.2f} · parameters^{exponents['parameters']:.2f} · "
        f"processes^{exponents['processes']:.2f}",
        loc="left",
    )
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return _write(figure, name)


def _pairs(axis: Axes, summary: dict[str, Any], keys: tuple[str, str], unit: float, label: str) -> None:
    """What was measured and what was predicted, one under the other."""
    for shift, key, name, colour in zip((0, 0.38), keys, ("measured", "predicted"), (SLATE, AMBER), strict=True):
        places = [place + shift for place in range(len(summary))]
        values = [each[key] / unit for each in summary.values()]
        drawn = axis.barh(places, values, height=0.36, color=colour, label=name)
        axis.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8)
    axis.margins(x=0.15)
    axis.set_xlabel(label)


def _bars(axis: Axes, values: dict[str, float], unit: str) -> None:
    colours = [AMBER if name == "amberline" else SLATE for name in values]
    drawn = axis.barh(list(values), list(values.values()), color=colours)
    axis.bar_label(drawn, fmt=lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.2f}", padding=3)
    if not axis.yaxis_inverted():
        axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_xlabel(unit)


def _write(figure: Figure, name: str) -> Path:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.png"
    figure.tight_layout()
    # Without the version of matplotlib in it, the same plot gives the same bytes.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return path
