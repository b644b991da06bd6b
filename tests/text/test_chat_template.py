"""The exported chat template: transformers makes the very tokens of it that training saw, whatever a tokenizer adds."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizer_folders import TEXTS, byte_level_folder
from transformers import AutoTokenizer

from amberline.data.conversations import Turn
from amberline.templates.vicuna import SYSTEM, render
from amberline.text.chats import Chat, opening
from amberline.text.small_tokenizer import save_llama_tokenizer, train_sentencepiece
from amberline.text.tokenizers import TokenizerRefused, load_tokenizer

TURNS = [("human", "Hi  there, trees?"), ("gpt", "Light, naïve ✓"), ("human", "And roots?"), ("gpt", " Yes.")]
ROLES = {"human": "user", "gpt": "assistant"}


def llama(folder: Path, *, legacy: bool) -> Path:
    folder.mkdir()
    save_llama_tokenizer(train_sentencepiece(TEXTS, 400), folder, 4096)
    return configured(folder, legacy=legacy)


def configured(folder: Path, **values: object) -> Path:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


FOLDERS = {
    "llama, legacy": lambda folder: (llama(folder, legacy=True), "<s>"),
    "llama": lambda folder: (llama(folder, legacy=False), "<s> "),
    "bytes, no bos": lambda folder: (byte_level_folder(folder), ""),
    "bytes, a bos that is named and not added": lambda folder: (
        configured(byte_level_folder(folder), bos_token="<|endoftext|>"),
        "",
    ),
    "bytes, a bos that is added and not named": lambda folder: (byte_level_folder(folder, bos="<s>"), "<s>"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_transformers_makes_the_tokens_of_training(tmp_path: Path, kind: str) -> None:
    folder, expected = FOLDERS[kind](tmp_path / "tokenizer")
    tokenizer = load_tokenizer(folder)
    assert opening(tokenizer, [SYSTEM]) == expected
    (folder / "chat_template.jinja").write_text(Chat(tokenizer, "vicuna").jinja(), encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    parts = render([Turn(*turn) for turn in TURNS], tokenizer.eos)
    trained = np.concatenate(tokenizer.encode_parts([part.text for part in parts])).tolist()

    chat = [{"role": ROLES[speaker], "content": text} for speaker, text in TURNS]
    published = AutoTokenizer.from_pretrained(folder)
    assert published.apply_chat_template(chat, return_dict=True)["input_ids"] == trained
    asked = published.apply_chat_template(chat[:3], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert asked == trained[: len(asked)]


def test_a_start_that_no_text_stands_for_is_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(byte_level_folder(tmp_path / "tokenizer", bos="<s>"))
    tokenizer.bos = "<another>"
    with pytest.raises(TokenizerRefused, match="no chat template could ask"):
        Chat(tokenizer, "vicuna").jinja()
