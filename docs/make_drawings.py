"""Draw the published recipe, the rules and the layers into the documentation: `make drawings`.

With --check, only say whether the drawings are true.
"""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from amberline.recipe import nodes as kinds  # noqa: E402
from amberline.recipe.check import check_recipe  # noqa: E402
from amberline.recipe.files import read_recipe  # noqa: E402

Arrows = set[tuple[str, str]]


def recipe() -> str:
    """The nodes of the published recipe, and which is made from which."""
    graph = check_recipe(read_recipe([]), files=False)
    arrows: Arrows = set()
    for name, node in graph.nodes.datasets.items():
        made_from = [node.chunk, node.tokenizer] if isinstance(node, kinds.Chunk) else graph.sources_of(name)
        arrows |= {(each, name) for each in made_from}
    for name in graph.trained:
        node = graph.node(name)
        arrows |= {(node.from_, name), (node.on, name)}
    for name in graph.nodes.evaluations:
        arrows |= {(model, name) for model in graph.evaluated(name)} | {(graph.dataset_of(name), name)}
    shapes = {"sources": "[({})]", "datasets": "[{}]", "models": "([{}])", "evaluations": "{{{{{}}}}}"}
    named = [
        f"    {name}{shape.format(name)}" for section, shape in shapes.items() for name in getattr(graph.nodes, section)
    ]
    return "\n".join(["flowchart LR", *named, *lines(arrows)])


def rules() -> str:
    """The rules and what they hand each other."""
    snakemake = Path(sys.executable).with_name("snakemake")
    drawn = subprocess.run(
        [snakemake, "--rulegraph", "mermaid-js"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = dict(re.findall(r"(id\d+)\[([\w.@-]+)\]", drawn))
    arrows = {(names[start], names[end]) for start, end in re.findall(r"(id\d+) --> (id\d+)", drawn)}
    # `train` reads models that `export` wrote, which would be a circle of rules.
    return "\n".join(["flowchart TB", *lines(arrows - {(name, name) for name in names.values()})])


def layers() -> str:
    """The layers of the library, each of which imports those above it."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    library = [name for name in names if (ROOT / "scripts/amberline" / name).is_dir()]
    found = {name: imported(name, library) for name in library}
    return "\n".join(["flowchart TB", *lines({(other, name) for name in library for other in found[name]})])


def imported(package: str, library: Iterable[str]) -> set[str]:
    """Packages of the library that a package imports, above it in the table."""
    library = list(library)
    above = library[: library.index(package)]
    text = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "scripts/amberline" / package).glob("*.py"))
    return {name for name in re.findall(r"(?:from|import) amberline\.(\w+)", text) if name in above}


def lines(arrows: Arrows) -> list[str]:
    """Arrows in a stable order, without those that follow from others."""
    kept = [(start, end) for start, end in sorted(arrows) if not reaches(start, end, arrows - {(start, end)})]
    return [f"    {start} --> {end}" for start, end in kept]


def reaches(start: str, end: str, arrows: Arrows, seen: frozenset[str] = frozenset()) -> bool:
    """Whether arrows lead from start to end."""
    return any(
        after == end or (after not in seen and reaches(after, end, arrows, seen | {after}))
        for before, after in arrows
        if before == start
    )


DRAWINGS = {"recipe": recipe, "rules": rules, "layers": layers}
PAGES = ("README.md", "docs/architecture.md")


def main() -> None:
    """Write or check the drawings: each stands behind a line `<!-- drawing: NAME -->`."""
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        drawn = re.sub(
            r"(<!-- drawing: (\w+) -->\n```mermaid\n).*?(?=\n```)",
            lambda found: found[1] + DRAWINGS[found[2]](),
            text,
            flags=re.DOTALL,
        )
        if "--check" in sys.argv and drawn != text:
            sys.exit(f"{page}: a drawing is an old one; run: make drawings")
        (ROOT / page).write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
