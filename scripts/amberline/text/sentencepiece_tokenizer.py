"""Llama tokenizers, encoded by SentencePiece itself, a word at a time.

No entry of such a vocabulary has a space behind another character, or a line end beside one. So no token reaches over
the borders of words (each with the spaces in front of it) and lines, byte-pair merges on the two sides of a border do
not touch, and the ids of a text are those of its words: they are encoded once and remembered. That a vocabulary is so
is checked when it is loaded, and the result is held against SentencePiece on whole texts.

What transformers adds to SentencePiece (its slow `LlamaTokenizer`, as of 4.57): special tokens written out in a text
cut it into segments. In legacy mode each segment gets a space in front, else only the text as a whole.
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from amberline.text.tokenizers import TRICKY_TEXTS, Ids, Tokenizer, TokenizerRefused, named_tokens, refusal, token_text

SPACE = "▁"  # how SentencePiece writes a space
# Ways to cut a text into words, the finer first. Where they cut hangs on two neighbouring characters alone, so a
# vocabulary of which no entry is cut has no token that reaches over a cut in any text.
WORDS = (re.compile(" *[^ \n]+| +|\n+"), re.compile(" *[^ ]+| +"))
REMEMBERED_WORDS = 400_000  # about 100 MB
LONGEST_REMEMBERED = 32  # characters
LLAMA_CLASSES = {None, "LlamaTokenizer", "LlamaTokenizerFast"}


class _Words(dict[str, bytes]):
    """Words and their ids, int32 as bytes, encoded when they are first looked up."""

    def __init__(self, processor: Any) -> None:
        super().__init__()
        self._encode = processor.encode

    def __missing__(self, word: str) -> bytes:
        ids = array("i", self._encode(word)).tobytes()
        if len(word) <= LONGEST_REMEMBERED:
            if len(self) >= REMEMBERED_WORDS:
                self.clear()
            self[word] = ids
        return ids


class LlamaTokenizer(Tokenizer):
    """A SentencePiece BPE model with what transformers' slow LlamaTokenizer adds, ids equal to its."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        """Raises TokenizerRefused if the folder's tokenizer is not of this kind, or its ids would not be exact."""
        self._folder = folder
        model = (folder / "tokenizer.model").read_bytes()
        proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
        try:
            proto.ParseFromString(model)
            self._whole = sentencepiece.SentencePieceProcessor(model_proto=model)
        except Exception as error:  # protobuf and SentencePiece have no common class of errors
            raise self._refusal(f"tokenizer.model cannot be read ({error})") from None
        self._check_model(proto)
        self._word = self._words_of(proto)
        self._cut = self._word.findall
        self._check_config(config)
        # transformers takes a missing or null value as true.
        self.legacy = config.get("legacy") is not False
        proto.normalizer_spec.add_dummy_prefix = False
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self._words = _Words(self._processor)
        specials = self._special_tokens(config)
        self._specials = {text: np.array([number], np.int32).tobytes() for text, number in specials.items()}
        self._special = re.compile("|".join(map(re.escape, sorted(specials, key=len, reverse=True))))
        self._largest_special = max(specials.values())
        self.bos = self._whole.id_to_piece(self._whole.bos_id())
        self._bos = np.array([self._whole.bos_id()], np.int32).tobytes()
        self.eos_id = self._whole.eos_id()
        self.unk_id = self._whole.unk_id()
        self.eos = self._whole.id_to_piece(self.eos_id)
        self._check_ids()

    def encode(self, text: str) -> Ids:
        """See Tokenizer."""
        return _ids(self._bos + self._text(text, starts=True))

    def encode_apart(self, text: str) -> Ids:
        """See Tokenizer."""
        return _ids(self._text(text, starts=True))

    def encode_parts(self, parts: Sequence[str], *, with_bos: bool = True) -> list[Ids]:
        """See Tokenizer. It is quick where parts meet behind a special token, or before a space."""
        encoded = []
        before = ""
        for number, part in enumerate(parts):
            if number == 0:
                ids = self._bos * with_bos + self._text(part, starts=True)
            elif before.endswith(tuple(self._specials)):
                ids = self._text(part, starts=False)
            elif before and part.startswith(" ") and not before.endswith((" ", SPACE)):
                first, *segments = self._special.split(part, maxsplit=1)
                ids = self._continued(first)
                if segments:
                    ids += self._text(part[len(first) :], starts=False)
            else:
                return self._encode_across(parts, with_bos=with_bos)
            encoded.append(_ids(ids))
            before = part or before
        return encoded

    def _encode_across(self, parts: Sequence[str], *, with_bos: bool) -> list[Ids]:
        """`encode_parts` wherever they meet: a token belongs to the part that its last character is of."""
        ends = np.cumsum([len(part) for part in parts])
        found = [self._bos * with_bos, *([b""] * (len(parts) - 1))]
        for start, end, word, ids in self._spans("".join(parts)):
            first, last = np.searchsorted(ends, [start + 1, end])
            if first == last:
                found[last] += ids
                continue
            lead = len(word) - (end - start)  # a space that the tokenizer put in front
            for token_end, token in self._tokens(word):
                found[np.searchsorted(ends, start + max(token_end - lead, 1))] += token
        return [_ids(ids) for ids in found]

    def _spans(self, text: str) -> Iterator[tuple[int, int, str, bytes]]:
        """First character, the one behind the last, what is encoded, and ids of each word and special token."""
        at = 0
        for special in [*self._special.finditer(text), None]:
            until = special.start() if special else len(text)
            lead = at < until and (self.legacy or at == 0)
            shown = " " * lead + text[at:until].replace(SPACE, " ")
            for word in self._word.finditer(shown):
                start, end = at + max(word.start() - lead, 0), at + word.end() - lead
                yield start, max(end, start + 1), word.group(), self._words[word.group()]
            if special:
                yield until, special.end(), special.group(), self._specials[special.group()]
                at = special.end()

    def _tokens(self, word: str) -> list[tuple[int, bytes]]:
        """Each token of a word, with the character behind the one that it ends in."""
        found: list[tuple[int, bytes]] = []
        end = begin = len(word)
        for token in reversed(self._processor.encode(word, return_type="proto").pieces):
            # Of the bytes that stand for one character, SentencePiece gives that to the last.
            end, begin = (begin, begin - len(token.surface)) if token.surface else (end, begin)
            found.append((end, array("i", [token.id]).tobytes()))
        return found[::-1]

    def count_following(self, text: str) -> int:
        """See Tokenizer."""
        return len(self._text(text, starts=False)) // 4

    def stands_alone(self, text: str) -> bool:
        """See Tokenizer: it is, if it ends with a whole word, and no special token parts it."""
        return text != "" and text[-1] not in (" ", SPACE) and not self._special.search(text)

    def count(self, text: str) -> int:
        """See Tokenizer."""
        return len(self._text(text, starts=True)) // 4

    def special_texts(self) -> frozenset[str]:
        """See Tokenizer."""
        return frozenset(self._specials)

    def largest_id(self) -> int:
        """See Tokenizer."""
        return max(self._whole.get_piece_size() - 1, self._largest_special)

    def _text(self, text: str, starts: bool) -> bytes:
        """Ids of a text at the start of all (`starts`), or behind a special token."""
        if not self._special.search(text):
            return self._continued(f" {text}" if text and (self.legacy or starts) else text)
        ids = []
        at = 0
        for special in self._special.finditer(text):
            segment = text[at : special.start()]
            ids.append(self._continued(f" {segment}" if segment and (self.legacy or (starts and at == 0)) else segment))
            ids.append(self._specials[special.group()])
            at = special.end()
        ids.append(self._continued(f" {text[at:]}" if at < len(text) and self.legacy else text[at:]))
        return b"".join(ids)

    def _continued(self, text: str) -> bytes:
        """Ids of a text without special tokens, nothing put in front."""
        # SentencePiece does not tell a literal "▁" from a space.
        return b"".join(map(self._words.__getitem__, self._cut(text.replace(SPACE, " "))))

    def _check_model(self, proto: Any) -> None:
        """Refuse a model of another kind, or one that changes its text."""
        normalizer = proto.normalizer_spec
        faults = {
            "it is not a BPE model": proto.trainer_spec.model_type != proto.trainer_spec.BPE,
            "it normalises the text (normalizer_spec is not the identity)": bool(normalizer.precompiled_charsmap),
            "it removes spaces": normalizer.remove_extra_whitespaces,
            "it does not put a space in front of a text": not normalizer.add_dummy_prefix,
            "it does not write spaces as ▁": not normalizer.escape_whitespaces,
            "it writes the space behind a word": proto.trainer_spec.treat_whitespace_as_suffix,
        }
        for fault, found in faults.items():
            if found:
                raise self._refusal(fault)

    def _words_of(self, proto: Any) -> re.Pattern[str]:
        """The finest way to cut texts into words that cuts no entry of the vocabulary."""
        read = (proto.pieces[0].NORMAL, proto.pieces[0].USER_DEFINED, proto.pieces[0].UNUSED)
        entries = [piece.piece.replace(SPACE, " ") for piece in proto.pieces if piece.type in read]
        for words in WORDS:
            across = next((entry for entry in entries if len(words.findall(entry)) != 1), None)
            if across is None:
                return words
        raise self._refusal(f"its entry {across!r} has a space behind another character")

    def _check_config(self, config: dict[str, Any]) -> None:
        faults = {
            f"its class is {config.get('tokenizer_class')}": config.get("tokenizer_class") not in LLAMA_CLASSES,
            "it adds no beginning-of-sequence token (add_bos_token is false)": config.get("add_bos_token") is False,
            "it adds an end-of-sequence token (add_eos_token is true)": config.get("add_eos_token") is True,
            "it puts no space in front of a text (add_prefix_space is false)": config.get("add_prefix_space") is False,
        }
        for fault, found in faults.items():
            if found:
                raise self._refusal(fault)

    def _special_tokens(self, config: dict[str, Any]) -> dict[str, int]:
        """Texts that stand for one id each: SentencePiece's own three, and those the configuration adds."""
        whole = self._whole
        found = {whole.id_to_piece(number): number for number in (whole.unk_id(), whole.bos_id(), whole.eos_id())}
        for name in ("unk_token", "bos_token", "eos_token"):
            text = token_text(config.get(name))
            if text is not None and found.get(text) != getattr(whole, f"{name[:3]}_id")():
                raise self._refusal(f"its {name} {text!r} is not that of tokenizer.model")
        for number, token in config["added_tokens_decoder"].items():
            if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
                raise self._refusal(
                    f"its token {token['content']!r} takes spaces or word borders with it",
                    "set its lstrip, rstrip and single_word to false in a copy of the folder, if the model allows that",
                )
            found[token["content"]] = int(number)
        found.update(config["added_tokens"])
        for name, text in named_tokens(config).items():
            if text not in found:
                raise self._refusal(
                    f"its {name} {text!r} has no id in added_tokens_decoder or added_tokens.json, and transformers "
                    "would make a new token of it",
                    f"in a copy of the folder, take {name} out of tokenizer_config.json and special_tokens_map.json, "
                    "or give it the id that the model was trained with",
                )
        return found

    def _check_ids(self) -> None:
        """Hold the ids against SentencePiece on whole texts."""
        for text in TRICKY_TEXTS:
            if not self._special.search(text):
                ids, expected = self.encode_apart(text).tolist(), self._whole.encode(text)
                if ids != expected:
                    raise self._refusal(f"its ids for {text!r} are {ids}, but SentencePiece's are {expected}")
        if self._whole.encode(self._whole.id_to_piece(self.eos_id)) == [self.eos_id]:
            raise self._refusal("SentencePiece reads its special tokens out of the text")

    def _refusal(self, why: str, fix: str | None = None) -> TokenizerRefused:
        if fix is None and (self._folder / "tokenizer.json").is_file():
            fix = "try a copy of the folder without tokenizer.model: tokenizer.json alone may be exact"
        return refusal(self._folder, why, fix)


def _ids(content: bytes) -> Ids:
    return np.frombuffer(content, np.int32)
