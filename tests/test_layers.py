"""The packages of the library import only what the table in docs/architecture.md lets them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "scripts/amberline"
# The order of the table; later ones may import earlier ones.
LAYERS = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/architecture.md").read_text(encoding="utf-8"), re.MULTILINE)
# What only programs and rules import, apart from these.
FOR_PROGRAMS_ALONE = {"report": set(), "cluster": set()}
# Folders whose files are found by their names; the recipe reads what they say.
REGISTRIES = {"evaluations", "formats", "objectives", "templates"}


def test_every_package_is_in_the_table():
    packages = {folder.parent.name for folder in LIBRARY.glob("*/__init__.py")}
    assert packages == {layer for layer in LAYERS if (LIBRARY / layer).is_dir()}


@pytest.mark.parametrize("file", sorted(LIBRARY.rglob("*.py")), ids=lambda file: str(file.relative_to(LIBRARY)))
def test_imports_go_up_the_table(file):
    own = file.relative_to(LIBRARY).parts[0]
    for package in imported(file) - {own} - (REGISTRIES if own == "recipe" else set()):
        assert LAYERS.index(package) < LAYERS.index(own), f"{own} imports {package}"
        assert own in FOR_PROGRAMS_ALONE.get(package, {own}), f"{package} is for programs alone"


def imported(file: Path) -> set[str]:
    """Packages of the library that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("amberline.")}
    return found


def test_the_recipe_and_the_settings_of_registries_need_no_torch():
    """`snakemake -n` reads them: it answers in seconds."""
    program = (
        "import sys; from amberline.objectives.registry import load_objective, objective_names\n"
        "from amberline.evaluations.registry import evaluation_names, load_evaluation\n"
        "from amberline.formats.registry import format_names, load_format\n"
        "import amberline.recipe.check\n"
        "assert [load_objective(name).Settings for name in objective_names()]\n"
        "assert [load_evaluation(name).Settings for name in evaluation_names()]\n"
        "assert [load_format(name).holds for name in format_names()]\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'pyarrow'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": str(LIBRARY.parent)}
    )
    assert done.stdout == "[]\n", done.stderr
