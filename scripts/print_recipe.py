"""Print a recipe with everything filled in: files on top of each other, `like` and `defaults` resolved.

python scripts/print_recipe.py                              config.yaml itself
python scripts/print_recipe.py demo/config.yaml mine.yaml   as snakemake --configfile demo/config.yaml mine.yaml
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from amberline.recipe.check import check_recipe
from amberline.recipe.files import ConfigurationError, read_recipe

Files = Annotated[list[Path] | None, typer.Argument(help="recipe files, each on top of those before it")]


def main(files: Files = None) -> None:
    """Print a recipe with everything filled in."""
    try:
        recipe = check_recipe(read_recipe(files or []), files=False)
    except ConfigurationError as error:
        sys.exit(f"print_recipe: {error}")
    # Without references to what stands in it twice.
    filled = json.loads(json.dumps({"extends": None, **recipe.nodes.filled}))
    print(yaml.safe_dump(filled, sort_keys=False, allow_unicode=True, width=110), end="")


if __name__ == "__main__":
    typer.run(main)
