"""Write the JSON schema of config.yaml, for editors: docs/config.schema.json."""

import json
from pathlib import Path

import typer

from amberline.recipe.schema import schema


def main(output: Path = Path("docs/config.schema.json")) -> None:
    """Write the JSON schema of config.yaml."""
    output.write_text(json.dumps(schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
