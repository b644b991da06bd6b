"""Model folders on disk: configuration and weights, read a slice at a time."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from amberline.hub.model_names import ModelError
from amberline.recipe.architectures import DERIVED, find_fault, why_unsupported

NEEDED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
AGAIN = "Fix: delete the folder and start the pipeline again; if it is of your own, get the model again."


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration of a model folder. Raises ModelError unless it is of a model that may be trained here.

    A folder holds Python files only where the recipe trusts them (`trust_remote_code`): those are run.
    """
    if fault := find_fault(folder):
        raise ModelError(fault)
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    kind = written["model_type"]
    trusted = any(folder.glob("*.py"))
    if kind not in CONFIG_MAPPING and not trusted:
        raise ModelError(f"{path} describes a {kind!r} model, {_why_unknown(written)}")
    if trusted and (foreign := [each for each in _classes(written) if "--" in each]):
        raise ModelError(
            f"{path} takes its code from another repository ({foreign[0]}), which is neither verified nor kept. Fix: "
            "put those Python files into a copy of the folder, and name them in auto_map without 'OWNER/NAME--'."
        )
    try:
        if trusted and "auto_map" in written:
            config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        else:
            config = CONFIG_MAPPING[kind].from_dict(written)
    except Exception as error:  # transformers raises errors of many classes for values that it does not take
        found = " ".join(str(error).split())[:300]
        raise ModelError(f"{path} is refused by transformers ({found}). {AGAIN}") from None
    if why := why_unsupported(config.to_dict()):
        raise ModelError(f"{path} {why}")
    if missing := [name for name in NEEDED if not isinstance(getattr(config, name, None), int)]:
        raise ModelError(
            f"{path} describes a {kind!r} model without {missing[0]}: it has no attention, or several models are in "
            "it, such as one for images. Fix: take a language model of text alone."
        )
    return config


def _classes(written: Mapping[str, Any]) -> Iterator[str]:
    """The classes that auto_map names: `FILE.CLASS`, or `OWNER/NAME--FILE.CLASS` of another repository."""
    classes = written.get("auto_map")
    for each in classes.values() if isinstance(classes, dict) else ():
        yield from map(str, each if isinstance(each, list) else [each])


def _why_unknown(written: Mapping[str, Any]) -> str:
    if "auto_map" in written:
        return (
            "whose code is in Python files beside it. Fix: if they are there, and you have read and trust them, set "
            "trust_remote_code: true beside `pretrained`."
        )
    return f"which transformers {transformers.__version__} does not know. Fix: take another model."


class WeightFiles:
    """The tensors of a model folder by name, from `model.safetensors` or from several files and their index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of = self._find()

    def names(self) -> set[str]:
        """Every tensor's name, without the derived rotary frequencies."""
        return {name for name in self._file_of if not name.endswith(DERIVED)}

    def read(self, name: str, rows: slice = slice(None)) -> torch.Tensor:
        """A tensor, or some of its rows, in the dtype of the file. Reads no more of the file than asked for."""
        file = self._file_of[name]
        try:
            # The file is opened anew for each tensor, so that what was read of it does not stay mapped.
            with safe_open(file, framework="pt") as tensors:
                stored = tensors.get_slice(name)
                part: torch.Tensor = stored[rows] if stored.get_shape() else tensors.get_tensor(name)
                return part
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read ({error}). {AGAIN}") from None

    def _find(self) -> dict[str, Path]:
        index, single = self.folder / "model.safetensors.index.json", self.folder / "model.safetensors"
        if index.is_file():
            weight_map = _weight_map(index)
            missing = sorted({file for file in weight_map.values() if not (self.folder / file).is_file()})
            if missing:
                raise ModelError(f"{self.folder} lacks {missing[0]}, which {index.name} lists. {AGAIN}")
            return {name: self.folder / file for name, file in weight_map.items()}
        if single.is_file():
            return dict.fromkeys(_names_in(single), single)
        raise ModelError(f"{self.folder} holds no weights: neither {single.name} nor {index.name} is there. {AGAIN}")


def _weight_map(index: Path) -> dict[str, str]:
    """Tensors by name, each with its file."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in found.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} is damaged ({error!r}): get the model again") from None


def _names_in(file: Path) -> Iterable[str]:
    try:
        with safe_open(file, framework="pt") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged ({error}). {AGAIN}") from None
