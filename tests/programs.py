"""The programs with one file more among those that are found by their names: a format, a template, an objective …"""

import shutil
from pathlib import Path

PROGRAMS = Path(__file__).parents[1] / "scripts"


def programs_with(file: Path, package: str, folder: Path) -> Path:
    """A copy of the programs in `folder`, with `file` in a package of the library."""
    scripts = folder / "scripts"
    shutil.copytree(PROGRAMS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(file, scripts / "amberline" / package / file.name)
    return scripts
