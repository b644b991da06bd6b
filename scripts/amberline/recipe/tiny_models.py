"""Small stand-ins for pretrained models: what config.json says of each architecture beyond its sizes.

To add one, add a function here, its name to ARCHITECTURES and its tokenizer to TOKENIZERS. transformers knows the
architecture by its `model_type`; what is set here is what makes that family another than a Llama, so that stand-ins
show what the large ones would.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Sizes that some of the values follow from."""

    width: int
    heads: int
    context: int

    @property
    def key_heads(self) -> int:
        """Half of the heads, where that is a number of heads."""
        return self.heads // 2 if self.heads % 2 == 0 else self.heads


def _llama(_: Sizes) -> dict[str, Any]:
    return {"model_type": "llama"}


def _llama3(sizes: Sizes) -> dict[str, Any]:
    """Grouped keys, and positions scaled from a context that was an eighth of this one."""
    scaling = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0}
    scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": max(1, sizes.context // 8)}
    return {"model_type": "llama", "num_key_value_heads": sizes.key_heads, "rope_parameters": scaling}


def _mistral(sizes: Sizes) -> dict[str, Any]:
    """Grouped keys, and a window that is longer than any document."""
    return {
        "model_type": "mistral",
        "num_key_value_heads": sizes.key_heads,
        "head_dim": sizes.width // sizes.heads,
        "sliding_window": 2 * sizes.context,
    }


def _qwen3(sizes: Sizes) -> dict[str, Any]:
    """Grouped keys, norms of queries and keys, wide heads, and one matrix for input and output."""
    return {
        "model_type": "qwen3",
        "num_key_value_heads": sizes.key_heads,
        "head_dim": 2 * sizes.width // sizes.heads,
        "tie_word_embeddings": True,
    }


def _olmo2(_: Sizes) -> dict[str, Any]:
    """Norms of queries and keys, and of what attention and MLP give instead of what they take."""
    return {"model_type": "olmo2"}


ARCHITECTURES: Mapping[str, Callable[[Sizes], dict[str, Any]]] = {
    "llama": _llama,
    "llama3": _llama3,
    "mistral": _mistral,
    "qwen3": _qwen3,
    "olmo2": _olmo2,
}

# The kind of tokenizer that each family has.
TOKENIZERS: Mapping[str, str] = {
    "llama": "llama",
    "llama3": "llama3",
    "mistral": "llama",
    "qwen3": "qwen",
    "olmo2": "olmo",
}
