"""Draw the DAG of the rules into the README: `make dag`. With --check, only say whether the drawing is true."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def drawing() -> str:
    """The rules and what they hand each other, as a mermaid flowchart in a stable order."""
    snakemake = Path(sys.executable).with_name("snakemake")
    drawn = subprocess.run(
        [snakemake, "--rulegraph", "mermaid-js"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", drawn))
    arrows = {(names[start], names[end]) for start, end in re.findall(r"(id\d+) --> (id\d+)", drawn)}
    # An arrow that follows from others is left out.
    kept = [(start, end) for start, end in sorted(arrows) if not reaches(start, end, arrows - {(start, end)})]
    return "\n".join(["flowchart TB", *(f"    {start} --> {end}" for start, end in kept)])


def reaches(start: str, end: str, arrows: set[tuple[str, str]]) -> bool:
    """Whether arrows lead from start to end."""
    return any(after == end or reaches(after, end, arrows) for before, after in arrows if before == start)


def main() -> None:
    """Write or check the drawing."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    drawn = re.sub(r"(?<=```mermaid\n).*?(?=\n```)", lambda _: drawing(), text, flags=re.DOTALL)
    if "--check" in sys.argv:
        sys.exit(None if drawn == text else "README.md: the drawing of the DAG is an old one; run: make dag")
    readme.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
