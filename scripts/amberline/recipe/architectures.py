"""Which models cannot be trained here as their config.json has it, for reasons that can be read there.

It is not a list of architectures: any causal language model of transformers is built, and what keeps documents apart
in none of its layers is refused by a probe (`model/probe.py`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from amberline.core.files import read_json_object

SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
# Old Llama checkpoints hold the rotary frequencies, which are computed from the configuration instead.
DERIVED = "rotary_emb.inv_freq"

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
# Rotary frequencies that depend on the longest document of a batch: packed, a short one would get those of a long one.
CHANGING_ROTATIONS = ("dynamic", "longrope", "su")
ANOTHER = "Fix: take another model."


def find_fault(folder: Path) -> str | None:
    """Why a model folder cannot be trained here as its config.json has it, with the fix; None if it can."""
    path = folder / "config.json"
    try:
        config = read_json_object(path)
    except (FileNotFoundError, NotADirectoryError):
        return f"{path} is missing: {folder} is no model folder. Fix: give the Hugging Face folder of a model."
    except ValueError as error:
        return f"{path} is damaged ({error}). Fix: get the model again."
    why = why_unsupported(config)
    return f"{path} {why}" if why else None


def why_unsupported(config: Mapping[str, Any]) -> str | None:
    """Why no model with this config.json can be trained here, as a clause and the fix; None if one may be.

    `config` is the file's own content, or what transformers makes of it, with all defaults.
    """
    return next(_faults(config), None)


def _faults(config: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(config.get("model_type"), str):
        yield (
            f"gives {config.get('model_type')!r} as model_type, so that its architecture is not known. Fix: give the "
            "Hugging Face folder of a causal language model."
        )
    for name in SIZES:
        if config.get(name) is not None and not _is_size(config[name]):
            yield f"gives {config[name]!r} as {name}, which is no size. Fix: get the model again."
    if config.get("is_encoder_decoder"):
        yield f"describes an encoder and a decoder, not a causal language model. {ANOTHER}"
    if config.get("use_bidirectional_attention") or config.get("is_causal") is False:
        yield f"describes attention to later tokens, and a causal language model has none. {ANOTHER}"
    for name in EXPERTS:
        if _is_size(config.get(name)) and config[name] > 1:
            yield (
                f"describes a mixture of experts ({name} {config[name]}), whose balance between experts is a loss of "
                f"its own that is not here. Fix: take a dense model."
            )
    for name in SOFT_CAPS:
        if config.get(name):
            yield f"caps logits softly ({name} {config[name]}), which no attention or loss here computes. {ANOTHER}"
    if config.get("attention_chunk_size"):
        yield f"cuts attention into pieces (attention_chunk_size), which no attention here computes. {ANOTHER}"
    for rotation in sorted(set(_rotations(config)) & set(CHANGING_ROTATIONS)):
        yield (
            f"scales rotary positions as {rotation!r}, which changes the positions of short documents when a long one "
            "is in their batch. Fix: take a model without it, or, for documents that fit the original context, remove "
            "rope_scaling in a copy of the folder."
        )
    padding, entries = config.get("pad_token_id"), config.get("vocab_size")
    if padding is not None and entries and not (isinstance(padding, int) and -entries <= padding < entries):
        yield (
            f"gives {padding!r} as pad_token_id, but its embeddings have {entries} rows (vocab_size). "
            "Fix: set pad_token_id to null in a copy of the folder; documents are not padded here."
        )


def _rotations(config: Mapping[str, Any]) -> Iterator[str]:
    """Kinds of rotary scaling: one for all layers, or one for each kind of layer."""
    for name in ("rope_scaling", "rope_parameters"):
        given = config.get(name)
        if isinstance(given, Mapping):
            for each in (given, *given.values()):
                if isinstance(each, Mapping):
                    yield str(each.get("rope_type", each.get("type")))


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
