"""Tokenizers whose ids are exact: loaded from a Hugging Face folder and checked, or refused with a reason.

Two kinds are known. A Llama tokenizer with its `tokenizer.model` is read by SentencePiece itself
(`sentencepiece_tokenizer.py`). Any other is taken from `tokenizer.json` if its offsets show which text every token
stands for (`offset_tokenizer.py`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amberline.core.files import read_json_object

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


SPECIAL_NAMES = ("unk_token", "bos_token", "eos_token", "pad_token", "sep_token", "cls_token", "mask_token")


class TokenizerRefused(Exception):
    """A tokenizer cannot be used, because its ids or masks would not be exact."""


class Tokenizer(ABC):
    """Text to ids, int32. Special tokens written out in a text become their ids, as in transformers."""

    bos: str  # text of the token that `encode` puts in front; "": it puts none there
    eos: str  # text of the end-of-sequence token
    eos_id: int
    unk_id: int | None
    legacy: bool | None  # how a Llama tokenizer treats text behind a special token; None: not of that family
    own_template: str | None = None  # its own chat template, as Jinja
    named: Mapping[str, str]  # texts of the special tokens that its configuration names: {"bos_token": …}

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """The ids that the model reads: with the beginning-of-sequence token, if it has one, and no end."""

    @abstractmethod
    def encode_apart(self, text: str) -> Ids:
        """The ids of a text by itself, without the beginning-of-sequence token."""

    @abstractmethod
    def encode_parts(self, parts: Sequence[str], *, with_bos: bool = True) -> list[Ids]:
        """`encode` of the joined parts, cut where they meet; a token that reaches into a part belongs to it.

        Without `with_bos` the joined parts are encoded as `encode_apart` does it.
        """

    @abstractmethod
    def count_following(self, text: str) -> int:
        """How many tokens a text is when it stands behind an end-of-sequence token."""

    @abstractmethod
    def stands_alone(self, text: str) -> bool:
        """Whether a text is known to be the same tokens with a space in front and a space or an end behind it."""

    @abstractmethod
    def special_texts(self) -> frozenset[str]:
        """Texts that are one token wherever they stand."""

    def changed(self, text: str) -> bool:  # noqa: ARG002
        """Whether a text is normalised before it is encoded, so that its tokens stand for another one."""
        return False

    @abstractmethod
    def largest_id(self) -> int:
        """The largest id that a text can have."""

    def added(self) -> int:
        """How many tokens `encode` puts in front of a text: one, or none without beginning-of-sequence token."""
        return len(self.encode(""))

    def count(self, text: str) -> int:
        """How many tokens a text is by itself, without the beginning-of-sequence token."""
        return len(self.encode_apart(text))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load and check the tokenizer of a Hugging Face folder. Raises TokenizerRefused."""
    from amberline.text.offset_tokenizer import OffsetTokenizer
    from amberline.text.sentencepiece_tokenizer import LlamaTokenizer

    config = read_tokenizer_config(folder)
    if (folder / "tokenizer.model").is_file():
        found: Tokenizer = LlamaTokenizer(folder, config)
    elif (folder / "tokenizer.json").is_file():
        found = OffsetTokenizer(folder, config)
    else:
        raise TokenizerRefused(
            f"{folder} has neither tokenizer.model nor tokenizer.json: it is no folder of a tokenizer. "
            "Fix: save the tokenizer there with save_pretrained."
        )
    found.own_template = _own_template(folder, config)
    found.named = {name: text for name in SPECIAL_NAMES if (text := token_text(config.get(name))) is not None}
    _check_model_knows(folder, found)
    return found


def _own_template(folder: Path, config: dict[str, Any]) -> str | None:
    """The chat template of a folder, as transformers finds it: of several named ones the default."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    written = config.get("chat_template")
    if isinstance(written, list):
        named = {each.get("name"): each.get("template") for each in written if isinstance(each, dict)}
        written = named.get("default")
    return written if isinstance(written, str) else None


def _check_model_knows(folder: Path, tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer with ids that the model of its folder has no embedding for."""
    entries = _read_object(folder / "config.json").get("vocab_size")
    largest = tokenizer.largest_id()
    if isinstance(entries, int) and largest >= entries:
        raise TokenizerRefused(
            f"{folder}: its tokenizer has ids up to {largest}, but the model of config.json knows {entries} "
            f"(vocab_size): training would fail at such a token. Fix: take the added tokens out of the tokenizer's "
            f"files, or give the model embeddings for them (resize_token_embeddings to {largest + 1} or more)."
        )


@lru_cache(maxsize=1)
def remembered_tokenizer(model: Path) -> Tokenizer:
    """`load_tokenizer`, once a process."""
    return load_tokenizer(model)


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """`tokenizer_config.json` of a folder, with what `special_tokens_map.json` and `added_tokens.json` add to it."""
    config: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        config |= _read_object(folder / name)
    config["added_tokens"] = _added_tokens(folder)
    config["added_tokens_decoder"] = _added_tokens_decoder(folder, config.get("added_tokens_decoder"))
    return config


def _read_object(file: Path) -> dict[str, Any]:
    """A JSON object of a file; an empty one if there is no file. Raises TokenizerRefused."""
    if not file.is_file():
        return {}
    try:
        return read_json_object(file)
    except (ValueError, OSError) as error:
        raise TokenizerRefused(f"{file} is damaged: {error}. Fix: get it again.") from None


def _added_tokens(folder: Path) -> dict[str, int]:
    """`added_tokens.json`: ids by text."""
    found = _read_object(folder / "added_tokens.json")
    for text, number in found.items():
        if not _is_id(number):
            raise TokenizerRefused(
                f"{folder / 'added_tokens.json'} is damaged: the id of {text!r} is {number!r}. Fix: get it again."
            )
    return found


def _added_tokens_decoder(folder: Path, found: Any) -> dict[str, dict[str, Any]]:
    """`added_tokens_decoder` of `tokenizer_config.json`: ids as texts, each with a token's content and traits."""
    place = f"{folder / 'tokenizer_config.json'} is damaged: its added_tokens_decoder"
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise TokenizerRefused(f"{place} is no JSON object. Fix: get the file again.")
    for number, token in found.items():
        if not (number.isascii() and number.isdigit() and _is_id(int(number[:12]))):
            raise TokenizerRefused(f"{place} has {number!r} in the place of an id. Fix: get the file again.")
        if not isinstance(token, dict) or not isinstance(token.get("content"), str) or not token["content"]:
            raise TokenizerRefused(f"{place} has no text as content of the id {number}. Fix: get the file again.")
    return found


def _is_id(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**31


def named_tokens(config: dict[str, Any]) -> dict[str, str]:
    """Texts of all tokens that a configuration names, which transformers makes tokens of, by where they are named."""
    found = {name: config[name] for name in SPECIAL_NAMES if name in config}
    for name in ("additional_special_tokens", "extra_special_tokens"):
        several = config.get(name) or []
        if not isinstance(several, dict | list):
            raise TokenizerRefused(f"tokenizer_config.json is damaged: {name} is no list. Fix: get it again.")
        values = several.values() if isinstance(several, dict) else several
        found |= {f"{name}[{number}]": value for number, value in enumerate(values)}
    return {name: text for name, value in found.items() if (text := token_text(value)) is not None}


def refusal(folder: Path, why: str, fix: str | None) -> TokenizerRefused:
    """The refusal of a folder's tokenizer, with what would work."""
    known = (
        "take a model whose tokenizer is of a known kind: Llama's SentencePiece BPE with its tokenizer.model, or a "
        "byte-level BPE with its tokenizer.json"
    )
    return TokenizerRefused(
        f"{folder}: this tokenizer is refused, because its ids or masks could not be shown to be exact: {why}. "
        f"Fix: {fix or known}."
    )


def token_text(value: Any) -> str | None:
    """The text of a special token, which is written as a string or as an object with its `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
