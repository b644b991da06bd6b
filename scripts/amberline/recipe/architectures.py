"""What can be trained here: why a pretrained model's config.json is not supported, and the weights that one implies."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# Old Llama checkpoints hold the rotary frequencies, which are computed from the configuration instead.
DERIVED = "rotary_emb.inv_freq"

Shapes = dict[str, tuple[int, ...]]


def find_fault(folder: Path) -> str | None:
    """Why a model folder cannot be trained here as its config.json has it, with the fix; None if it can."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return f"{path} is missing: {folder} is no model folder. Fix: give the Hugging Face folder of a model."
    except (ValueError, RecursionError) as error:
        return f"{path} is damaged ({error}). Fix: get the model again."
    if not isinstance(config, dict):
        return f"{path} is damaged (it holds no JSON object). Fix: get the model again."
    why = why_unsupported(config)
    return f"{path} {why}" if why else None


def why_unsupported(config: Mapping[str, Any]) -> str | None:
    """Why no model with this config.json can be trained here, as a clause and the fix; None if one can."""
    if config.get("model_type") != "llama":
        return (
            f"describes a {config.get('model_type')!r} model: only the Llama architecture is known. "
            'Fix: take a model whose config.json says "model_type": "llama".'
        )
    for name in SIZES:
        if not _is_size(config.get(name)):
            return f"gives {config.get(name)!r} as {name}, which is no size. Fix: get the model again."
    for name in ("num_key_value_heads", "head_dim"):
        if config.get(name) is not None and not _is_size(config[name]):
            return f"gives {config[name]!r} as {name}, which is no size. Fix: get the model again."
    if config.get("tie_word_embeddings"):
        return (
            "ties input and output embeddings (tie_word_embeddings), which are trained apart here. Fix: in a copy of "
            "the folder, add lm_head.weight, equal to model.embed_tokens.weight, and set tie_word_embeddings to false."
        )
    padding, entries = config.get("pad_token_id"), config["vocab_size"]
    if padding is not None and not (isinstance(padding, int) and -entries <= padding < entries):
        return (
            f"gives {padding!r} as pad_token_id, but its embeddings have {entries} rows (vocab_size). "
            "Fix: set pad_token_id to null in a copy of the folder; documents are not padded here."
        )
    return None


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def weight_shapes(config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of all weights of a model with a supported config.json."""
    entries, width, inner, layers, heads = (config[name] for name in SIZES)
    head = config.get("head_dim") or width // heads
    queries, keys = heads * head, (config.get("num_key_value_heads") or heads) * head
    attention = {"q_proj": (queries, width), "k_proj": (keys, width), "v_proj": (keys, width)}
    attention["o_proj"] = (width, queries)
    mlp = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
    layer: Shapes = {"input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,)}
    for part, matrices, bias in (("self_attn", attention, "attention_bias"), ("mlp", mlp, "mlp_bias")):
        for name, shape in matrices.items():
            layer[f"{part}.{name}.weight"] = shape
            if config.get(bias):
                layer[f"{part}.{name}.bias"] = shape[:1]
    shapes: Shapes = {
        f"model.layers.{number}.{name}": shape for number in range(layers) for name, shape in layer.items()
    }
    outer: Shapes = {"model.embed_tokens.weight": (entries, width), "model.norm.weight": (width,)}
    return shapes | outer | {"lm_head.weight": (entries, width)}
