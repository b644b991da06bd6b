"""Figures as people read them."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

NOTHING = "–"  # stands where there is no figure


def number(value: Any) -> str:
    """A number with thousands apart and four figures of a fraction; anything else as text."""
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}".replace("-", "−")
        case float():
            return _fraction(value)
        case list() | tuple():
            return ", ".join(map(number, value)) or NOTHING
    return str(value)


def _fraction(value: float) -> str:
    if not math.isfinite(value):
        return "not finite"
    text = f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    return text.replace("-", "−", 1) if value < 0 else text


def column(values: Sequence[Any]) -> list[str]:
    """The figures of a column, fractions with as many decimals as show three figures of the smallest one."""
    places = decimals(values)
    return [figure(value, places) for value in values]


def decimals(values: Sequence[Any]) -> int:
    """So many decimals show three figures of the smallest fraction."""
    fractions = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    # What is all but zero shall not stretch the others.
    largest = max(map(abs, fractions), default=0)
    sizes = [abs(value) for value in fractions if abs(value) > largest / 1e4]
    return min(3, max(0, 2 - math.floor(math.log10(min(sizes))))) if sizes else 0


def figure(value: Any, places: int) -> str:
    """A figure of a column: a fraction with so many decimals."""
    if not isinstance(value, float) or not math.isfinite(value):
        return number(value)
    text = f"{value:,.{places}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) else text.removeprefix("-")


def difference(value: Any, base: Any, places: int) -> str:
    """By how much a figure is larger or smaller than another: signed, = where they are equal; empty if unknown."""
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in (value, base)):
        return ""
    if value == base:
        return "="
    text = figure(value - base, places)
    return text if text.startswith("−") else f"+{text}"


def mean_and_deviation(values: Sequence[Any], places: int = 0) -> tuple[str, str]:
    """The mean of figures and ± their sample standard deviation, of which two figures are shown at least."""
    if len(values) < 2 or not all(isinstance(each, int | float) and math.isfinite(each) for each in values):
        return NOTHING, ""
    if len(set(values)) == 1 and isinstance(values[0], int):
        return number(values[0]), ""
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    if deviation:
        places = max(places, min(6, 1 - math.floor(math.log10(deviation))))
    return figure(mean, places), f"± {figure(deviation, places)}"


def duration(seconds: int | None) -> str:
    """Hours, minutes and seconds."""
    if seconds is None:
        return NOTHING
    minutes, rest = divmod(seconds, 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def gigabytes(size: int | None) -> str:
    """Thousands of Slurm's M, which are MiB: what `memory_gb` asks for."""
    return NOTHING if size is None else f"{size / (1000 * 2**20):.3g}"


def percent(part: float | None) -> str:
    """A part of a whole."""
    return NOTHING if part is None else f"{part:.0%}"


def listed(names: Sequence[str]) -> str:
    """Names as in a sentence."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
