"""Programs end with one message, never with a traceback, whatever one of their files has become."""

import os
import random
import shutil
import time
from pathlib import Path

import pytest
import yaml

from amberline.core.digests import canonical
from fuzz.commands import Command, commands, page_settings, recipe_of, write_raw
from fuzz.mutations import damage

CASES = 6  # of each command


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, list[Command]]:
    """A folder in which every command has run."""
    here = tmp_path_factory.mktemp("whole")
    recipe = recipe_of(here)
    write_raw(here)
    (here / "page.json").write_text(canonical(page_settings(recipe)))
    (here / "packages.lock").write_text("torch==2.13.0\n")
    (here / "recipe.yaml").write_text(yaml.safe_dump({"models": {"amberchat": {"seed": 3}}}))
    listed = commands(recipe)
    for command in listed:
        found = command.run(here)
        assert found.exit_code == 0, f"{command.name}: {found.output[-2000:]} {found.exception!r}"
    return here, listed


NAMES = [command.name for command in commands(recipe_of(Path("/nowhere")))]


def fault_of(command: Command, whole: Path, here: Path, seed: str) -> str | None:
    """What is wrong with the end of a command that finds one of its files damaged; None if it is as it should be."""
    source = random.Random(seed)
    shutil.copytree(whole, here, copy_function=os.link)
    file = source.choice(command.inputs(here))
    if file.stat().st_size == 0 and not file.is_file():
        return None
    how = damage(file, source)
    for output in command.writes:
        if source.random() < 0.5:
            made = Path(output.replace("{here}", str(here)))
            shutil.rmtree(made) if made.is_dir() else made.unlink(missing_ok=True)
    before = set(here.rglob("*"))
    found = command.run(here)
    told = f"{command.name}, {file.relative_to(here)} {how} (seed {seed!r})"
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        return f"{told}: {found.exception!r}"
    if found.exit_code and not found.output.strip():
        return f"{told}: no message"
    left = [path.name for path in set(here.rglob("*")) - before if path.name.endswith(".partial")]
    return f"{told}: leaves {left}" if left else None


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_one_message(name: str, whole, tmp_path: Path) -> None:
    there, listed = whole
    (command,) = (each for each in listed if each.name == name)
    faults = [fault_of(command, there, tmp_path / str(case), f"{name} {case}") for case in range(CASES)]
    if found := list(filter(None, faults)):
        pytest.fail("\n".join(found), pytrace=False)


@pytest.mark.sweep
@pytest.mark.timeout(1200)
def test_damaged_files_for_ten_minutes(whole, tmp_path: Path) -> None:
    there, listed = whole
    faults, cases, end = [], 0, time.monotonic() + 600
    while time.monotonic() < end:
        for command in listed:
            faults.append(fault_of(command, there, tmp_path / "case", f"{command.name} long {cases}"))
            shutil.rmtree(tmp_path / "case")
        cases += 1
    found = list(filter(None, faults))
    print(f"{len(faults)} cases, {len(found)} faults")
    assert not found, "\n".join(found)
