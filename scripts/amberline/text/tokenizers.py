"""Tokenizers whose ids are exact: loaded from a Hugging Face folder and checked, or refused with a reason.

Two kinds are known. A Llama tokenizer with its `tokenizer.model` is read by SentencePiece itself
(`sentencepiece_tokenizer.py`). Any other is taken from `tokenizer.json` if its offsets show which text every token
stands for (`offset_tokenizer.py`).
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]

# Texts on which tokenizers are known to differ from one another, for the check on loading.
TRICKY_TEXTS = (
    "Hello",
    " Hello",
    "  two spaces in front and behind  ",
    "a  b   c    d     e",
    "def f(x):\n    if x:\n        return  x\n\n\n\tpass\r\n",
    " \n \n\n ",
    "▁ literal ▁▁ marks ▁",
    "naïve café, cafe\u0301, Straße, ﬁ",
    "你好，世界。日本語のテキスト 한국어 עברית",
    "👩‍👩‍👧‍👦 🏳️‍🌈 \U0001f9ff",
    "\u00a0\u2003\u200b\ufeff zero\u200dwidth",
    "nul \0 and \x7f and \x1b[0m",
    "12345678901234567890 3.14159 1e-5",
    "https://example.org/?q=a+b&c=%20#x </a> < s> <|im_end|>",
    "ASSISTANT: USER: ASSISTANT:",
)


class TokenizerRefused(Exception):
    """A tokenizer cannot be used, because its ids or masks would not be exact."""


class Tokenizer(ABC):
    """Text to ids, int32. Special tokens written out in a text become their ids, as in transformers."""

    eos: str  # text of the end-of-sequence token
    eos_id: int
    unk_id: int | None
    legacy: bool | None  # how a Llama tokenizer treats text behind a special token; None: not of that family

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """The ids that the model reads: with the beginning-of-sequence token, if it has one, and no end."""

    @abstractmethod
    def encode_apart(self, text: str) -> Ids:
        """The ids of a text by itself, without the beginning-of-sequence token."""

    @abstractmethod
    def encode_parts(self, parts: Sequence[str]) -> list[Ids]:
        """`encode` of the joined parts, cut where they meet; a token that reaches into a part belongs to it."""

    @abstractmethod
    def count_following(self, text: str) -> int:
        """How many tokens a text is when it stands behind an end-of-sequence token."""

    @abstractmethod
    def stands_alone(self, text: str) -> bool:
        """Whether a text is known to be the same tokens with a space in front and a space or an end behind it."""

    def count(self, text: str) -> int:
        """How many tokens a text is by itself, without the beginning-of-sequence token."""
        return len(self.encode_apart(text))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load and check the tokenizer of a Hugging Face folder. Raises TokenizerRefused."""
    from amberline.text.offset_tokenizer import OffsetTokenizer
    from amberline.text.sentencepiece_tokenizer import LlamaTokenizer

    config = read_tokenizer_config(folder)
    if (folder / "tokenizer.model").is_file():
        return LlamaTokenizer(folder, config)
    if (folder / "tokenizer.json").is_file():
        return OffsetTokenizer(folder, config)
    raise TokenizerRefused(f"{folder} has neither tokenizer.model nor tokenizer.json: it is no folder of a tokenizer")


@lru_cache(maxsize=1)
def remembered_tokenizer(model: Path) -> Tokenizer:
    """`load_tokenizer`, once a process."""
    return load_tokenizer(model)


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json` of a folder, with what `special_tokens_map.json` and `added_tokens.json` add to it."""
    config: dict[str, Any] = {}
    try:
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                config |= json.loads((folder / name).read_text(encoding="utf-8"))
        if (folder / "added_tokens.json").is_file():
            config["added_tokens"] = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TokenizerRefused(f"{folder / name} is damaged: {error}") from None
    return config


def token_text(value: Any) -> str | None:
    """The text of a special token, which is written as a string or as an object with its `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
