"""A small tokenizer of the Llama kind, trained on text: SentencePiece BPE with byte fallback.

It stands in for the real one where a whole pipeline is run at small scale, and has the same traits: `<unk>`, `<s>` and
`</s>` are 0, 1 and 2, nothing is normalised, runs of spaces have entries of their own.
"""

import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

# SentencePiece cuts its training text into sentences of at most this many bytes, and leaves out longer ones.
SENTENCE_BYTES = 4192


class SmallTokenizerError(Exception):
    """No tokenizer of that size can be trained on that text."""


def train_sentencepiece(texts: Iterable[str], vocabulary: int) -> bytes:
    """Train a SentencePiece model with `vocabulary` entries and return the content of its `tokenizer.model`.

    The same texts give the same bytes. Raises SmallTokenizerError, with a number of entries that works, if the text
    holds more characters or fewer words than such a vocabulary needs.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            character_coverage=0.99,
            max_sentence_length=SENTENCE_BYTES,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise SmallTokenizerError(_refusal(vocabulary, str(error))) from None
    return model.getvalue()


def _refusal(vocabulary: int, reason: str) -> str:
    """What SentencePiece says, in terms of the recipe: it names its own options."""
    if most := re.search(r"set it to a value <= (\d+)", reason):
        why, fix = "fills no more than", f"set it to {most[1]} or less, or train it on more text"
    elif most := re.search(r"smaller than required_chars. \d+ vs (\d+)", reason):
        why, fix = "has characters for no fewer than", f"set it to {most[1]} or more"
    elif "!sentences_.empty()" in reason:
        return "the text to train a tokenizer on is empty. Fix: name sources with some text as `texts` of the model."
    else:
        return f"no tokenizer with {vocabulary} entries (tiny.vocabulary) can be trained on this text: {reason}"
    return f"tiny.vocabulary is {vocabulary}, but this text {why} {most[1]} entries. Fix: {fix}."


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Lines of the texts, cut to pieces that the trainer takes."""
    width = SENTENCE_BYTES // 4  # a character is at most four bytes
    for text in texts:
        for line in text.splitlines():
            for start in range(0, len(line), width):
                yield line[start : start + width].replace("\0", "")


def save_llama_tokenizer(model: bytes, folder: Path, context: int) -> list[Path]:
    """Write a SentencePiece model as the files of a Llama tokenizer (legacy mode), and return their paths.

    `tokenizer.model` is what SentencePiece reads, `tokenizer.json` the same for the `tokenizers` library.
    """
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    proto.ParseFromString(model)
    special = {name: proto.pieces[number].piece for number, name in enumerate(("unk_token", "bos_token", "eos_token"))}
    config = special | {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": True,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "pad_token": special["unk_token"],
        "padding_side": "right",
        "sp_model_kwargs": {},
    }
    files = [folder / name for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")]
    files[0].write_bytes(model)
    _fast(proto).save(str(files[1]))
    files[2].write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def _fast(proto: Any) -> Tokenizer:
    """The same tokenizer for the `tokenizers` library: merges in the order of the pieces' scores, best first."""
    vocabulary = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    merges = []
    for piece in sorted((piece for piece in proto.pieces if piece.type == piece.NORMAL), key=lambda p: -p.score):
        halves = [(piece.piece[:cut], piece.piece[cut:]) for cut in range(1, len(piece.piece))]
        known = [(left, right) for left, right in halves if left in vocabulary and right in vocabulary]
        merges.extend(sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]])))
    fast = Tokenizer(
        BPE(vocab=vocabulary, merges=merges, unk_token=proto.pieces[0].piece, fuse_unk=True, byte_fallback=True)
    )
    fast.add_special_tokens([AddedToken(piece.piece, normalized=False, special=True) for piece in proto.pieces[:3]])
    fast.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bos = proto.pieces[1].piece
    fast.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, vocabulary[bos])]
    )
    return fast
