"""A trained model as a Hugging Face folder that transformers, vLLM and FastChat load."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from amberline.core.files import read_json_object
from amberline.hub.model_names import CODE, KEPT, ModelError
from amberline.model.architecture import outline
from amberline.model.files import AGAIN, read_config
from amberline.model.weights import Weights, write_safetensors


def write_model_folder(
    weights: Weights,
    base: Path,
    folder: Path,
    dtype: torch.dtype,
    chat_template: str | None,
    end_ids: Sequence[int] | None,
) -> None:
    """Write configuration, tokenizer, generation settings and weights into `folder`.

    `base` is the model folder that training started from: what is not trained is taken from there. `chat_template` is
    Jinja as transformers reads it; None: that of the base, if it has one. `end_ids` are the tokens at which generation
    stops; None: those of the base. Raises ModelError when the weights are not those of the base's architecture.
    """
    model = outline(read_config(base))
    found = weights.shapes().keys() - model.tied.keys()
    if model.names.keys() != found:
        raise ModelError(
            f"the weights are not of the model in {base}: they differ in {sorted(model.names.keys() ^ found)[:3]}. "
            "Fix: give the folder of the model that their training started from."
        )
    for file in sorted(base.iterdir()):
        if file.name in KEPT - {"config.json"} or CODE.fullmatch(file.name):
            shutil.copyfile(file, folder / file.name)
    # The base's own file is kept, so that readers of other versions find the keys that they know.
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    named = str(dtype).removeprefix("torch.")
    config |= {
        "architectures": [model.kind],
        "dtype": named,
        "torch_dtype": named,
        "use_cache": True,
    }
    _write_json(folder / "config.json", config)
    _write_generation_config(folder / "generation_config.json", config, end_ids)
    if chat_template is not None:
        _write_chat_template(folder, chat_template)
    write_safetensors(weights, folder, dtype, model.names)


def _write_generation_config(file: Path, config: Mapping[str, Any], end_ids: Sequence[int] | None) -> None:
    """Let generation stop at those tokens. What else the base's own file says stays."""
    written = _read_json(file) if file.is_file() else None
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
    wanted = special if written is None else dict(written)
    if end_ids is not None:
        wanted["eos_token_id"] = list(end_ids) if len(end_ids) > 1 else end_ids[0]
    if wanted != written:
        _write_json(file, wanted)


def _write_chat_template(folder: Path, chat_template: str) -> None:
    """Write the template; another one in tokenizer_config.json, which old versions read, would contradict it."""
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    file = folder / "tokenizer_config.json"
    config = _read_json(file) if file.is_file() else {}
    if "chat_template" in config:
        _write_json(file, config | {"chat_template": chat_template})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json_object(path)
    except (ValueError, OSError) as error:
        raise ModelError(f"{path.name} of the base model is damaged ({error}). {AGAIN}") from None


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
