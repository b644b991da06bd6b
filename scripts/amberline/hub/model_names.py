"""Which files make up a Hugging Face model folder."""

import re
from collections.abc import Iterable

# What `transformers` reads of a model folder, weights aside. Code is taken only where the recipe trusts it.
KEPT = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "vocab.json",
        "merges.txt",
    }
)
TOKENIZERS = frozenset({"tokenizer.json", "tokenizer.model"})
SAFETENSORS = re.compile(r"model(-[0-9]{5}-of-[0-9]{5})?\.safetensors")
CODE = re.compile(r"[^/]+\.py")
PICKLED = re.compile(r"pytorch_model(-[0-9]{5}-of-[0-9]{5})?\.bin")


class ModelError(Exception):
    """A folder or repository is no model that can be loaded, run or written as asked; the message says the fix."""


def wanted_files(names: Iterable[str], place: str, *, code: bool) -> list[str]:
    """Which files of a model to take: safetensors if there are any, else pickled weights; with `code`, Python, too.

    Raises ModelError.
    """
    names = set(names)
    weights = sorted(filter(SAFETENSORS.fullmatch, names)) or sorted(filter(PICKLED.fullmatch, names))
    if "config.json" not in names:
        raise ModelError(
            f"{place}: there is no config.json in it. Fix: set `pretrained` to a Hugging Face model folder, or to the "
            "id of one on the hub."
        )
    if not weights:
        raise ModelError(
            f"{place}: there are no weights in it (model*.safetensors or pytorch_model*.bin). Fix: get them beside "
            "config.json; if they lie elsewhere in it, set `pretrained` to that folder."
        )
    if not names & TOKENIZERS:
        raise ModelError(
            f"{place}: there is no tokenizer in it ({' or '.join(sorted(TOKENIZERS))}). Fix: save it there with "
            "transformers (AutoTokenizer.from_pretrained, save_pretrained), in a copy of the model's folder."
        )
    trusted = filter(CODE.fullmatch, names) if code else ()
    return sorted({*(names & KEPT), *trusted}) + weights
