"""Tokenizers known by their `tokenizer.json` alone: byte-level BPE, and Llama's kind without its `tokenizer.model`.

The file is the tokenizer's definition, and the `tokenizers` library encodes by it. What has to be shown is which text
each token stands for: offsets that cover the whole text, in order, marks aside that NFC composes with the character
before. A normalizer (NFC of Qwen's, lower-casing) is exact where that holds: offsets are those of the text as it was,
and tokens stand for the normalised text and nothing else.
"""

import json
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as Encoder

from amberline.text.tokenizers import TRICKY_TEXTS, Ids, Tokenizer, TokenizerRefused, named_tokens, refusal, token_text

# What would work where tokens stand for another text than they were made of.
OTHER_TEXT = (
    "if it is a Llama tokenizer saved without its tokenizer.model (as transformers 5 does), add that file of the "
    "original model to a copy of the folder; if tokenizer.json has a normalizer that leaves out text, take a model "
    "without one"
)


class OffsetTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library, with masks from its offsets."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises TokenizerRefused if the tokenizer's offsets do not show which text its tokens stand for."""
        self._folder = folder
        try:
            self._encoder = Encoder.from_str(_with_whole_offsets(folder / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exceptions
            raise self._refusal(f"tokenizer.json cannot be read ({error})") from None
        self._encoder.no_truncation()
        self._encoder.no_padding()
        self.legacy = bool(config["legacy"]) if "legacy" in config else None
        eos = token_text(config.get("eos_token"))
        if eos is None:
            raise self._refusal(
                "tokenizer_config.json names no eos_token", 'add "eos_token": TEXT to it, in a copy of the folder'
            )
        self.eos = eos
        self.eos_id = self._eos_id()
        unk = token_text(config.get("unk_token"))
        self.unk_id = None if unk is None else self._encoder.token_to_id(unk)
        self._normalises = self._encoder.normalizer is not None and "▁" not in self._normalised(" a")
        self._check_named(config)
        self._bos_ids: list[int] = self._encoder.encode("").ids
        self.bos = "".join(self._encoder.encode("").tokens)
        self._check()

    def encode(self, text: str) -> Ids:
        """See Tokenizer."""
        return np.array(self._encoder.encode(text).ids, np.int32)

    def encode_apart(self, text: str) -> Ids:
        """See Tokenizer."""
        return np.array(self._encoder.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_parts(self, parts: Sequence[str], *, with_bos: bool = True) -> list[Ids]:
        """See Tokenizer."""
        encoding = self._encoder.encode("".join(parts), add_special_tokens=with_bos)
        ends = np.cumsum([len(part) for part in parts])
        # Where a token ends says to which part it belongs; what is added in front ends at 0. What the normalizer
        # composes with a character is not in the offsets of that: a token goes on to where the next one begins.
        starts, tokens_end = np.reshape(encoding.offsets, (-1, 2)).T
        tokens_end = np.maximum(tokens_end, [*starts[1:], 1])[: len(starts)].clip(min=1)
        cuts = np.searchsorted(tokens_end, ends[:-1], side="right")
        return [np.array(ids, np.int32) for ids in np.split(encoding.ids, cuts)]

    def count_following(self, text: str) -> int:
        """See Tokenizer."""
        return len(self._encoder.encode(self.eos + text, add_special_tokens=False).ids) - 1

    def special_texts(self) -> frozenset[str]:
        """See Tokenizer."""
        return frozenset(token.content for token in self._encoder.get_added_tokens_decoder().values())

    def changed(self, text: str) -> bool:
        """See Tokenizer. Of Llama's kind the normalizer writes spaces as marks, which is no change."""
        return self._normalises and self._normalised(text) != text

    def largest_id(self) -> int:
        """See Tokenizer."""
        return max(self._encoder.get_vocab(with_added_tokens=True).values())

    def stands_alone(self, text: str) -> bool:  # noqa: ARG002
        """See Tokenizer: that is known of no text."""
        return False

    def _eos_id(self) -> int:
        ids = self._encoder.encode(self.eos, add_special_tokens=False).ids
        if ids != [self._encoder.token_to_id(self.eos)]:
            raise self._refusal(f"its eos_token {self.eos!r} is not one token when it is read from a text")
        return ids[0]

    def _check_named(self, config: dict[str, Any]) -> None:
        """Refuse tokens that tokenizer_config.json names, or gives another id, and tokenizer.json does not know."""
        ids = {token["content"]: int(number) for number, token in config["added_tokens_decoder"].items()}
        ids |= config["added_tokens"]
        named = named_tokens(config) | {f"added token {number}": text for text, number in ids.items()}
        for name, text in named.items():
            known = self._encoder.token_to_id(text)
            read = self._encoder.encode(text, add_special_tokens=False).ids
            if known is None or read != [known] or ids.get(text, known) != known:
                raise self._refusal(
                    f"its {name} {text!r} is no token of tokenizer.json with the same id, and transformers would make "
                    "one of it",
                    "save the tokenizer again with transformers (save_pretrained), so that its files agree, or take "
                    f"{text!r} out of tokenizer_config.json, in a copy of the folder",
                )

    def _normalised(self, text: str) -> str:
        """The text as it is encoded. (Special tokens in it are not normalised; no normalizer in use changes them.)"""
        normalizer = self._encoder.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def _check(self) -> None:
        for text in TRICKY_TEXTS:
            encoding = self._encoder.encode(text)
            if encoding.ids[: len(self._bos_ids)] != self._bos_ids:
                raise self._refusal("it adds tokens behind the text")
            uncovered = _uncovered(text, encoding, len(self._bos_ids))
            if uncovered is not None:
                raise self._refusal(
                    f"no token stands for {uncovered!r} in {text!r}, or tokens are out of order",
                    OTHER_TEXT,
                )
            decoded = self._encoder.decode(encoding.ids, skip_special_tokens=False)
            if not any(read.replace("▁", " ") in decoded.replace("▁", " ") for read in (text, self._normalised(text))):
                raise self._refusal(
                    f"it changes the text: {text!r} becomes {decoded!r}",
                    OTHER_TEXT,
                )

    def _refusal(self, why: str, fix: str | None = None) -> TokenizerRefused:
        return refusal(self._folder, why, fix)


def _with_whole_offsets(file: Path) -> str:
    """tokenizer.json with the spaces around a token in its offsets; the ids are the same."""
    content = json.loads(file.read_text(encoding="utf-8"))
    waiting = [content.get("post_processor"), content.get("pre_tokenizer")]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            part.update({"trim_offsets": False} if "trim_offsets" in part else {})
            waiting += part.get("processors", []) + part.get("pretokenizers", [])
    return json.dumps(content, ensure_ascii=False)


def _uncovered(text: str, encoding: Encoding, added: int) -> str | None:
    """The first stretch of text that no token covers; "" if tokens do not follow each other in order."""
    offsets = encoding.offsets[added:]
    covered = 0
    for start, end in [*offsets, (len(text), len(text))]:
        composed = covered > 0 and len(unicodedata.normalize("NFC", text[covered - 1 : start])) == 1
        if start > covered and not composed:
            return text[covered:start]
        covered = max(covered, end)
    return "" if any(a > b for a, b in pairwise(end for _, end in offsets)) else None
