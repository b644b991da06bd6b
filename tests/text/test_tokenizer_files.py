"""Files beside a tokenizer's definition: what transformers acts on is exact or refused, with what would work."""

import json
from pathlib import Path

import pytest
from tokenizer_folders import byte_level_folder, llama_folder
from tokenizers import normalizers

from amberline.data.conversations import Turn
from amberline.recipe.data import Chunk
from amberline.text.chunk_pieces import cut_conversation
from amberline.text.tokenizers import TokenizerRefused, load_tokenizer

DAMAGED = [
    ("tokenizer_config.json", {"added_tokens_decoder": []}, "added_tokens_decoder is no JSON object"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "'x' in the place of an id"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"9" * 5000: {"content": "a"}}}, "in the place of an id"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"7": {}}}, "no text as content of the id 7"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"7": "a"}}, "no text as content of the id 7"),
    ("tokenizer_config.json", {"added_tokens_decoder": {"7": {"content": ""}}}, "no text as content of the id 7"),
    ("tokenizer_config.json", {"additional_special_tokens": 7}, "additional_special_tokens is no list"),
    ("tokenizer_config.json", [], "holds no JSON object"),
    ("special_tokens_map.json", "x", "holds no JSON object"),
    ("added_tokens.json", {"a": "b"}, "the id of 'a' is 'b'"),
    ("added_tokens.json", {"a": -1}, "the id of 'a' is -1"),
    ("added_tokens.json", ["a"], "holds no JSON object"),
    ("config.json", 3, "holds no JSON object"),
]


def refused(folder: Path) -> str:
    with pytest.raises(TokenizerRefused) as refusal:
        load_tokenizer(folder)
    message = str(refusal.value)
    assert ("Fix: " in message and str(folder) in message) or "tokenizer_config.json" in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("file", "content", "why"), DAMAGED)
@pytest.mark.parametrize("kind", ["llama", "byte level"])
def test_damaged_files_are_a_refusal(tmp_path: Path, kind: str, file: str, content: object, why: str) -> None:
    folder = llama_folder(tmp_path / "t") if kind == "llama" else byte_level_folder(tmp_path / "t")
    if file == "tokenizer_config.json" and isinstance(content, dict):
        content = json.loads((folder / file).read_text()) | content
    (folder / file).write_text(json.dumps(content))
    assert why in refused(folder)


def test_text_that_is_no_json_is_a_refusal(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "t")
    for content in (b"{", b"\xff", b"[" * 100_000):
        (folder / "added_tokens.json").write_bytes(content)
        assert "added_tokens.json is damaged" in refused(folder)


@pytest.mark.parametrize(
    ("named", "where"),
    [
        ({"pad_token": "[PAD]"}, "pad_token"),
        ({"pad_token": {"content": "[PAD]", "lstrip": False}}, "pad_token"),
        ({"additional_special_tokens": ["<s>", "<|im_end|>"]}, "additional_special_tokens[1]"),
        ({"extra_special_tokens": {"image_token": "<image>"}}, "extra_special_tokens[0]"),
    ],
)
def test_tokens_that_only_the_configuration_names_are_refused(tmp_path: Path, named: dict, where: str) -> None:
    assert f"its {where}" in refused(llama_folder(tmp_path / "llama", **named))
    folder = byte_level_folder(tmp_path / "bytes", bos="<s>")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | named))
    assert f"its {where}" in refused(folder)


def test_named_tokens_with_an_id_are_exact(tmp_path: Path) -> None:
    added = {"32000": {"content": "[PAD]"}, "32001": {"content": "<|im_end|>"}}
    named = {"pad_token": "[PAD]", "additional_special_tokens": ["<|im_end|>", {"content": "<unk>"}]}
    tokenizer = load_tokenizer(llama_folder(tmp_path / "t", added_tokens_decoder=added, **named))
    assert tokenizer.encode("[PAD]<|im_end|>").tolist() == [1, 32000, 32001]
    load_tokenizer(llama_folder(tmp_path / "same", pad_token="<unk>"))


def test_an_added_token_that_tokenizer_json_does_not_know_is_refused(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path / "t")
    (folder / "added_tokens.json").write_text('{"<pad>": 600}')
    assert "its added token" in refused(folder)


@pytest.mark.parametrize("kind", ["llama", "byte level"])
def test_ids_that_the_model_does_not_know_are_refused(tmp_path: Path, kind: str) -> None:
    if kind == "llama":
        folder, largest = llama_folder(tmp_path / "t", added_tokens_decoder={"32000": {"content": "<p>"}}), 32000
    else:
        folder = byte_level_folder(tmp_path / "t")
        largest = max(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"].values())
    (folder / "config.json").write_text(json.dumps({"vocab_size": largest}))
    assert f"has ids up to {largest}, but the model of config.json knows {largest}" in refused(folder)
    (folder / "config.json").write_text(json.dumps({"vocab_size": largest + 1}))
    assert load_tokenizer(folder).largest_id() == largest


def test_refusals_say_what_would_work(tmp_path: Path) -> None:
    gemma = llama_folder(tmp_path / "gemma", tokenizer_class="GemmaTokenizer")
    assert "a model whose tokenizer is of a known kind" in refused(gemma)
    (gemma / "tokenizer.json").write_text("{}")
    assert "a copy of the folder without tokenizer.model" in refused(gemma)
    rstrip = {"32000": {"content": "<p>", "rstrip": True}}
    assert "set its lstrip, rstrip" in refused(llama_folder(tmp_path / "rstrip", added_tokens_decoder=rstrip))
    strip = byte_level_folder(tmp_path / "strip", normalizer=normalizers.Strip())
    assert "has a normalizer that leaves out text" in refused(strip)


@pytest.mark.parametrize("bos", [None, "<s>"])
def test_the_fastchat_cut_counts_what_the_tokenizer_adds(tmp_path: Path, bos: str | None) -> None:
    """FastChat asks the tokenizer for a turn's length: with its beginning of sequence if it adds one."""
    tokenizer = load_tokenizer(byte_level_folder(tmp_path / "t", bos=bos))
    turns = [Turn("human", "a question"), Turn("gpt", "an answer")]
    tokens = [tokenizer.count(turn.text) for turn in turns]
    fastchats = sum(len(tokenizer.encode(turn.text)) + 6 for turn in turns)
    assert fastchats == sum(tokens) + 12 + 2 * (bos is not None)
    for limit, chunks in ((fastchats, 1), (fastchats - 1, 0)):
        settings = Chunk(mode="fastchat", template="vicuna", max_length=limit, keep_leading_answer=False)
        cut = cut_conversation(tokenizer, turns, tokens, settings, "fastchat")
        assert len(cut.chunks) == chunks
