"""A trained model as a Hugging Face folder that transformers, vLLM and FastChat load."""

import json
import shutil
from pathlib import Path

import torch

from amberline.hub.model_names import CODE, KEPT, ModelError
from amberline.model.architecture import outline
from amberline.model.files import read_config
from amberline.model.weights import Weights, write_safetensors


def write_model_folder(
    weights: Weights, base: Path, folder: Path, dtype: torch.dtype, chat_template: str | None
) -> None:
    """Write configuration, tokenizer, generation settings and weights into `folder`.

    `base` is the model folder that training started from: what is not trained is taken from there. `chat_template` is
    Jinja as transformers reads it; None: that of the base, if it has one. Raises ModelError when the weights are not
    those of the base's architecture.
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
    if not (folder / "generation_config.json").is_file():
        special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in config}
        _write_json(folder / "generation_config.json", special)
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    write_safetensors(weights, folder, dtype, model.names)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
