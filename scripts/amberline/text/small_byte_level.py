"""Small byte-level BPE tokenizers of the kinds that today's models have, trained on text.

They stand in for the real ones where a whole pipeline is run at small scale, and have the same traits: what a text is
split at, whether it is normalised, which special tokens there are, behind all others, and whether one stands in front.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

from amberline.text.small_tokenizer import SmallTokenizerError

# How GPT-4 splits a text before it is encoded, which the others have taken over; they differ in groups of digits.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TRAITS = ("lstrip", "normalized", "rstrip", "single_word")


@dataclass(frozen=True)
class Family:
    """The traits of a kind of tokenizer."""

    tokenizer_class: str  # of transformers
    digits: str  # that are split off together, as a regular expression
    eos: str
    others: tuple[str, ...]  # special tokens beside the end of sequence
    bos: str | None = None  # stands in front of every text
    pad: str | None = None
    nfc: bool = False


FAMILIES: Mapping[str, Family] = {
    "llama3": Family(
        tokenizer_class="PreTrainedTokenizerFast",
        digits=r"\p{N}{1,3}",
        eos="<|end_of_text|>",
        others=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>",
    ),
    "qwen": Family(
        tokenizer_class="Qwen2Tokenizer",
        digits=r"\p{N}",
        eos="<|endoftext|>",
        others=("<|im_start|>", "<|im_end|>"),
        pad="<|endoftext|>",
        nfc=True,
    ),
    "olmo": Family(
        tokenizer_class="PreTrainedTokenizerFast",
        digits=r"\p{N}{1,3}",
        eos="<|endoftext|>",
        others=("<|im_start|>", "<|im_end|>", "<|pad|>"),
        pad="<|pad|>",
    ),
}


def train_byte_level(texts: Iterable[str], vocabulary: int, kind: str) -> Tokenizer:
    """Train a tokenizer of a kind in FAMILIES with at most `vocabulary` entries, its special tokens the last of them.

    Where the texts have fewer words it has fewer; the model has embeddings to spare then, as those of Qwen have. The
    same texts give the same tokenizer. Raises SmallTokenizerError, with a number of entries that works.
    """
    family = FAMILIES[kind]
    special = [family.eos, *family.others]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fewest = len(alphabet) + len(special)
    if vocabulary < fewest:
        raise SmallTokenizerError(
            f"tiny.vocabulary is {vocabulary}, but bytes and special tokens alone are {fewest} entries. "
            f"Fix: set it to {fewest} or more."
        )
    tokenizer = Tokenizer(BPE(ignore_merges=kind == "llama3"))
    tokenizer.normalizer = normalizers.NFC() if family.nfc else None
    split = pre_tokenizers.Split(Regex(SPLIT.replace("DIGITS", family.digits)), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    entries = vocabulary - len(special)
    trainer = trainers.BpeTrainer(vocab_size=entries, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    whole_offsets = processors.ByteLevel(trim_offsets=False)
    tokenizer.post_processor = whole_offsets
    if family.bos is not None:
        bos = (family.bos, tokenizer.token_to_id(family.bos))
        in_front = processors.TemplateProcessing(
            single=f"{family.bos} $A", pair=f"{family.bos} $A {family.bos}:1 $B:1", special_tokens=[bos]
        )
        tokenizer.post_processor = processors.Sequence([whole_offsets, in_front])
    return tokenizer


def save_byte_level(tokenizer: Tokenizer, folder: Path, kind: str, context: int) -> dict[str, int | None]:
    """Write the files of a tokenizer, and return its special ids as config.json has them."""
    family = FAMILIES[kind]
    named: dict[str, str | None] = {"bos_token": family.bos, "eos_token": family.eos, "pad_token": family.pad}
    config: dict[str, Any] = {
        **{name: text for name, text in named.items() if text is not None},
        "tokenizer_class": family.tokenizer_class,
        "additional_special_tokens": list(family.others),
        # transformers builds some classes anew, and gives special tokens the ids that stand here.
        "added_tokens_decoder": {
            str(number): {"content": token.content, "special": True, **dict.fromkeys(TRAITS, False)}
            for number, token in sorted(tokenizer.get_added_tokens_decoder().items())
        },
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }
    tokenizer.save(str(folder / "tokenizer.json"))
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return {f"{name}_id": None if text is None else tokenizer.token_to_id(text) for name, text in named.items()}
