"""Figures as people read them, and plots of odd data."""

import math

import pytest

from amberline.report import plots
from amberline.report.text import column, difference, listed, mean_and_deviation, number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (-5, "−5"),
        (0.0, "0"),
        (2.469649, "2.47"),
        (1046.4469, "1046"),
        (123456.7, "123,457"),
        (-24.6632, "−24.66"),
        (2e-5, "2e-05"),
        (math.nan, "not finite"),
        (math.inf, "not finite"),
        ([], "–"),
        (["a", 2], "a, 2"),
        ("fastchat", "fastchat"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1046.4469, 2.4696, 12.4559], ["1,046.45", "2.47", "12.46"]),
        ([0.0, -24.66, 6.7287, None], ["0.00", "−24.66", "6.73", "–"]),
        ([0.5, 1.0, 0.0631], ["0.500", "1.000", "0.063"]),
        ([1e-9, 5.0], ["0.00", "5.00"]),
        ([-1e-9, 5.0], ["0.00", "5.00"]),
        ([95, 1234], ["95", "1,234"]),
        ([math.nan, 1.0], ["not finite", "1.00"]),
        ([None, None], ["–", "–"]),
    ],
)
def test_columns_have_as_many_decimals_everywhere(values, texts):
    assert column(values) == texts


@pytest.mark.parametrize(
    ("value", "base", "text"),
    [
        (2.5, 2.25, "+0.25"),
        (2.0, 2.25, "−0.25"),
        (2.25, 2.25, "="),
        (2.2501, 2.25, "+0.00"),
        (95, 90, "+5"),
        (None, 1.0, ""),
        (1.0, math.nan, ""),
    ],
)
def test_differences(value, base, text):
    assert difference(value, base, 2) == text


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        # Differences to the mean 2: −1, 0, 1; sd √(2 / 2) = 1.
        ([1.0, 2.0, 3.0], ("2.00", "± 1.00")),
        # Differences to the mean 0.8015: ∓0.0005; sd √(2 · 0.0005²) = 0.000707….
        ([0.801, 0.802], ("0.80150", "± 0.00071")),
        ([0.5, 0.5], ("0.50", "± 0.00")),
        ([95, 95], ("95", "")),
        ([1.0, None], ("–", "")),
        ([1.0], ("–", "")),
    ],
)
def test_means_and_deviations(values, texts):
    assert mean_and_deviation(values, 2) == texts


def test_names_as_in_a_sentence():
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_long_curves_are_thinned_by_means():
    drawn = plots.curve("loss", {"training": (list(range(1, 3001)), [1.0] * 3000)})
    assert "(means of 5 steps)" in drawn
    assert len(drawn) < 100_000


@pytest.mark.parametrize("values", [[0.0, 0.0], [-3.0, 2.0], [1.0, 1e6], [0.5]])
def test_bars_of_any_values(values):
    bars = [
        plots.Bar(f"a model with a rather long name, number {number}", value, "x")
        for number, value in enumerate(values)
    ]
    drawn = plots.bars("accuracy", bars)
    assert drawn.startswith("<svg")
    assert ("logarithmic axis" in drawn) == (max(values) == 1e6)


def test_a_histogram_of_nothing():
    assert plots.histogram("tokens", {"edges": [0, 1], "counts": [0]}).startswith("<svg")
    assert plots.histogram("tokens", {"edges": [], "counts": []}).startswith("<svg")
