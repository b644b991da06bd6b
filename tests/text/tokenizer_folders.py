"""Tokenizers for the tests: the 32k SentencePiece model that mistral-common carries, and a small byte-level BPE."""

import json
from pathlib import Path

import mistral_common
from generated import conversations
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers import decoders as decode

MODEL = Path(mistral_common.__file__).parent / "data/tokenizer.model.v1"
TEXTS = [turn["value"] for row in conversations(60, seed=7) for turn in row["conversations"]]


def llama_folder(folder: Path, **config) -> Path:
    """A folder with that model and a configuration."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(MODEL.read_bytes())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    } | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def byte_level_folder(folder, *, eos="<|endoftext|>", bos=None, normalizer=None):
    """A byte-level BPE of 600 entries, as GPT-2 has it."""
    encoder = Tokenizer(models.BPE())
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder.decoder = decode.ByteLevel()
    if normalizer is not None:
        encoder.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[eos], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    encoder.train_from_iterator(TEXTS, trainer)
    if bos is not None:
        encoder.add_special_tokens([AddedToken(bos)])
        encoder.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, encoder.token_to_id(bos))]
        )
    folder.mkdir(exist_ok=True)
    encoder.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    return folder
