"""Recipes to change one thing in."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from amberline.recipe.check import check_recipe
from amberline.recipe.files import ConfigurationError, put_on_top, read_recipe
from amberline.recipe.graph import Recipe

ROOT = Path(__file__).parents[2]
PUBLISHED = read_recipe([])
DEMO = read_recipe([ROOT / "demo/config.yaml"])


def recipe_with(*overlays: dict[str, Any], on: dict[str, Any] = PUBLISHED) -> Recipe:
    """The published recipe, or another, with overlays on top."""
    values = deepcopy(on)
    for overlay in overlays:
        values = put_on_top(values, overlay)
    return check_recipe(values, files=False)


def refused(*overlays: dict[str, Any], on: dict[str, Any] = PUBLISHED) -> str:
    """Why a recipe is refused."""
    with pytest.raises(ConfigurationError) as error:
        recipe_with(*overlays, on=on)
    return str(error.value)
