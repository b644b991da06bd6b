"""List what lies in a results folder and no recipe names: of removed variants, nodes and settings. Deletes if asked to.

    python scripts/unused.py --recipe demo/config.yaml                       what the demo does not name
    python scripts/unused.py --recipe demo/config.yaml,mine.yaml --delete    … nor mine.yaml on top of it

Name every recipe that uses the results folder, each as `snakemake --configfile` gets it: what one of them names stays.
"""

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from amberline.core.locks import Lock, LockError
from amberline.recipe.check import check_recipe
from amberline.recipe.files import ConfigurationError, read_recipe
from amberline.recipe.graph import Recipe
from amberline.recipe.inventory import Unused, find_unused


def main(
    recipe: Annotated[list[str], typer.Option(help="recipe files, with commas between them; may be repeated")],
    *,
    delete: Annotated[bool, typer.Option("--delete", help="delete what is listed")] = False,
) -> None:
    """List what no recipe names, and how much deleting it frees."""
    try:
        recipes = [_read(files) for files in recipe]
    except ConfigurationError as error:
        sys.exit(f"unused: {error}")
    folders = {each.around.results for each in recipes}
    if len(folders) > 1:
        sys.exit(f"unused: the recipes have different results folders: {', '.join(sorted(folders))}. Name those of one")
    results = Path(folders.pop())
    found = find_unused(results, recipes)
    for each in found:
        print(f"{_readable(each.bytes):>9}  {each.path}")
    total = _readable(sum(each.bytes for each in found))
    print(f"{len(found)} files and folders under {results} are of none of these recipes: {total}")
    if delete and found:
        try:
            _delete(found, results)
        except (LockError, OSError) as error:
            sys.exit(f"unused: {error}")


def _read(files: str) -> Recipe:
    return check_recipe(read_recipe([Path(file) for file in files.split(",") if file]), files=False)


def _delete(found: list[Unused], results: Path) -> None:
    """Delete, while no pipeline works in the results folder. Raises LockError."""
    lock = Lock(results, "pipeline.lock.json")
    lock.acquire()
    try:
        for each in found:
            if each.path.is_dir() and not each.path.is_symlink():
                shutil.rmtree(each.path)
            else:
                each.path.unlink()
            each.path.with_name(f"{each.path.name}.manifest.json").unlink(missing_ok=True)
    finally:
        lock.release()
    print(f"deleted {len(found)} files and folders")


def _readable(size: int) -> str:
    power = min(len(str(size)) - 1, 12) // 3
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


if __name__ == "__main__":
    typer.run(main)
