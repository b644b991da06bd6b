"""Get a pretrained model, from the hub or from a local folder, with its weights as safetensors."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from amberline.core.ending import one_message
from amberline.core.files import whole_folder
from amberline.core.manifests import model_content, write_manifest
from amberline.hub.downloads import HubError
from amberline.hub.model_files import check_weights, convert_pickled, download_model, link_model
from amberline.hub.model_names import ModelError
from amberline.hub.origins import model_origin
from amberline.recipe.data import Pretrained
from amberline.text.chats import opening
from amberline.text.tokenizers import TRICKY_TEXTS, TokenizerRefused, load_tokenizer


def check(folder: Path) -> None:
    """Refuse now what a later stage could not use: a model that cannot run packed, or a tokenizer that is not exact."""
    import torch

    from amberline.model.files import read_config
    from amberline.model.probe import probe

    opening(load_tokenizer(folder), TRICKY_TEXTS)
    probe(read_config(folder), device="cpu", dtype=torch.float32, attention="sdpa")


def checked_parameters(folder: Path) -> int:
    """Hold the weights of a folder against its config.json; return how many there are."""
    from amberline.model.architecture import outline
    from amberline.model.files import read_config

    expected = outline(read_config(folder))
    return check_weights(folder, expected.shapes, expected.tied)


@contextmanager
def naming(folder: Path, place: str) -> Iterator[None]:
    """Let refusals name where a model comes from instead of `folder`, which is gone when they are read."""
    try:
        yield
    except (ModelError, TokenizerRefused) as error:
        raise ModelError(str(error).replace(str(folder), place)) from None


def main(
    source: Annotated[str, typer.Option(help="where it is, as JSON: Pretrained in scripts/amberline/recipe/data.py")],
    output: Annotated[Path, typer.Option(help="Hugging Face folder to write")],
) -> None:
    """Get a pretrained model, from the hub or from a local folder, with its weights as safetensors."""
    working = output.with_name(f".{output.name}.download")
    with one_message("acquire_model", ValidationError, ModelError, HubError):
        wanted = Pretrained.model_validate_json(source)
        place = str(wanted.folder or f"{wanted.pretrained} @ {wanted.revision}")
        with whole_folder(output) as folder, naming(folder, place):
            if wanted.folder is not None:
                link_model(wanted.folder, folder, code=wanted.trust_remote_code)
                check(folder)
                commit = None
            else:
                assert wanted.revision, "Pretrained requires it of an id on the hub"
                commit = download_model(
                    wanted.pretrained,
                    wanted.revision,
                    working,
                    folder,
                    check,
                    code=wanted.trust_remote_code,
                    earlier=output,
                )
            convert_pickled(folder)
            parameters = checked_parameters(folder)
            write_manifest(
                folder,
                kind="model",
                files=list(folder.iterdir()),
                inputs={},
                settings={},
                facts={"parameters": parameters, "commit": commit, "origin": model_origin(wanted)},
                digest=model_content(folder),
            )
    shutil.rmtree(working, ignore_errors=True)
    print(f"{output}: {parameters:,} parameters", file=sys.stderr)
    if commit not in (None, wanted.revision):
        print(
            f"{wanted.pretrained}: {wanted.revision} is no commit, and what it names may change. To get the same model "
            f"everywhere, set `revision: {commit}`.",
            file=sys.stderr,
        )


if __name__ == "__main__":
    typer.run(main)
