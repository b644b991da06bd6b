"""No program and no rule knows the published recipe's nodes: their names stand in recipes, and where people read."""

import re
import subprocess
import tokenize
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("amberchat", "ambersafe", "ambersafe-sft", "evol-mix", "evol-mix-split", "safe-pairs", "pku_train", "pku_test")
NAMED = re.compile("|".join(NAMES))  # a longer name has a shorter one in it
# Recipes, data, tests, examples and documentation.
MAY_NAME = re.compile(r"config\.yaml|(demo|recipes|examples|tests|docs)/.*|.*\.md|CITATION\.cff")
BEFORE_A_STATEMENT = {tokenize.ENCODING, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


def without_comments(file: str, text: str) -> str:
    """What a file does: without what is said to people in it."""
    match Path(file):
        case Path(name="Makefile"):
            # The demo's last lines tell where to look.
            return re.sub(r'#.*|^\t@echo "   .*', "", text, flags=re.MULTILINE)
        case Path(suffix=".py" | ".smk") | Path(name="Snakefile"):
            return "\n".join(_code(text))
        case Path(suffix=".jinja"):
            return re.sub(r"\{#.*?#\}", "", text, flags=re.DOTALL)
        case _:
            return re.sub(r"#.*", "", text)


def _code(text: str) -> Iterator[str]:
    """The tokens of Python or of a Snakefile that are neither comments nor docstrings."""
    before = tokenize.ENCODING
    for token in tokenize.tokenize(BytesIO(text.encode()).readline):
        if token.type in {tokenize.COMMENT, tokenize.NL}:
            continue
        # A Snakefile's directives have strings of one line as statements.
        is_docstring = before in BEFORE_A_STATEMENT and token.string.startswith('"""')
        if not is_docstring:
            yield token.string
        before = token.type


def files() -> list[str]:
    """All files of the project that may not name a node."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if not MAY_NAME.fullmatch(name) and (ROOT / name).is_file()]


def test_nodes_are_named_where_people_read_and_in_recipes_alone():
    found = []
    for file in files():
        content = (ROOT / file).read_bytes()
        # Measured figures are JSON that names what was measured.
        if b"\0" not in content and not file.endswith(".json"):
            code = without_comments(file, content.decode())
            found += [f"{file}: {line.strip()}" for line in code.splitlines() if NAMED.search(line)]
    assert not found


@pytest.mark.parametrize(
    ("file", "text", "is_named"),
    [
        ("a.py", '"""ambersafe"""\nx = 1  # ambersafe\n', False),
        ("a.py", 'def f():\n    # A comment.\n    """As evol-mix."""\n', False),
        ("a.py", 'x = {"pku_train": 1}\n', True),
        ("a.py", 'print(\n    """safe-pairs"""\n)\n', True),
        ("a.py", "ambersafe = 1\n", True),
        ("a.smk", 'rule a:\n    # amberchat\n    shell:\n        "train amberchat"\n', True),
        ("a.smk", '"""amberchat"""\n\n\nrule a:\n    # amberchat\n    shell:\n        "train"\n', False),
        ("a.jinja", "{# amberchat #}<p>", False),
        ("a.jinja", "<p>{{ amberchat }}", True),
        ("Makefile", '\t@echo "   AmberChat  results/demo/models/amberchat"\n', False),
        ("Makefile", "\tsnakemake amberchat\n", True),
        ("a.sh", "run  # amberchat\n", False),
    ],
)
def test_comments_and_docstrings_are_told_from_code(file, text, is_named):
    assert bool(NAMED.search(without_comments(file, text))) == is_named
