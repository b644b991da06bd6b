"""Chunking and tokenizing in other templates than Vicuna, by the programs."""

import json
from pathlib import Path

import pytest
from chat_oracle import kind_folder
from generated import conversations
from test_text_programs import TINY, counts, describe, lines, rows_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import chunk_conversations
import make_tiny_model
import tokenize_conversations
import tokenize_pairs
from amberline.core.manifests import read_manifest
from amberline.data.tokens import IGNORED, open_tokens
from amberline.text.chats import exported_chat
from amberline.text.small_byte_level import FAMILIES
from amberline.text.tokenizers import load_tokenizer

LIMIT = 512


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = kind_folder(tmp_path_factory.mktemp("models") / "base", "qwen")
    return describe(folder, "model", list(folder.iterdir()))


@pytest.fixture(scope="module")
def mix(tmp_path_factory) -> Path:
    rows = conversations(80, seed=6)
    for number, row in enumerate(rows):
        for turn in row["conversations"]:
            turn["value"] = turn["value"][:300]
        if number % 7 == 0:
            row["conversations"].insert(0, {"from": "system", "value": "Be brief."})
        if number % 9 == 0:
            row["conversations"] += [{"from": "tool", "value": "42"}, {"from": "gpt", "value": "It is 42."}]
    long = [{"from": "human", "value": "Go on."}, {"from": "gpt", "value": "word " * 999}] * 2
    rows.append({"id": "long", "conversations": long})
    return rows_file(tmp_path_factory.mktemp("data") / "mix.json", rows)


def cut(mix: Path, model: Path, out: Path, mode: str, template: str) -> Path:
    settings = {"mode": mode, "template": template, "max_length": LIMIT, "keep_leading_answer": False}
    made = {"chunks": "chunks.json", "funnel": "chunk.json", "rejects": "chunk.jsonl", "comparison": "both.json"}
    chunk_conversations.main(
        conversations=mix,
        model=model,
        settings=json.dumps(settings),
        processes=1,
        **{name: out / file for name, file in made.items()},
    )
    return out / "chunks.json"


def tokenize(chunks: Path, model: Path, out: Path, template: str, loss_on: str = "answers") -> Path:
    settings = {"template": template, "loss_on": loss_on, "mode": "lossless", "max_length": LIMIT}
    tokenize_conversations.main(
        rows=chunks,
        model=model,
        settings=json.dumps(settings),
        processes=1,
        tokens=out / "tokens",
        funnel=out / "tokens.json",
        rejects=out / "tokens.jsonl",
    )
    return out / "tokens"


@pytest.mark.parametrize("template", ["chatml", "llama3", "tokenizer"])
def test_lossless_chunks_fit_in_the_template_that_they_were_cut_for(mix, model, tmp_path, template):
    chunks = json.loads(cut(mix, model, tmp_path, "lossless", template).read_text())
    tokens = open_tokens(tokenize(tmp_path / "chunks.json", model, tmp_path, template))
    over_long = json.loads((tmp_path / "chunk.json").read_text())["notes"].get("over_long_rounds", 0)
    assert len(tokens) > 80
    # No chunk but those of one over-long round is cut.
    cut_short = [each for each in lines(tmp_path / "tokens.jsonl") if each["reason"] == "cut_at_max_length"]
    assert len(cut_short) == over_long == 2
    assert list(json.loads((tmp_path / "both.json").read_text())) == ["lossless"], "no published cut beside it"
    with_system = {chunk["id"].rsplit("_", 1)[0] for chunk in chunks if chunk["conversations"][0]["from"] == "system"}
    of_system = [chunk for chunk in chunks if chunk["id"].rsplit("_", 1)[0] in with_system]
    assert len(of_system) > len(with_system) > 3
    assert all(chunk["conversations"][0] == {"from": "system", "value": "Be brief."} for chunk in of_system)
    assert any(turn["from"] == "tool" for chunk in chunks for turn in chunk["conversations"])


def test_whole_conversations_are_cut_when_they_are_tokenized_and_every_turn_is_accounted_for(mix, model, tmp_path):
    chunks = json.loads(cut(mix, model, tmp_path, "whole", "vicuna").read_text())
    assert len(chunks) == counts(tmp_path / "chunk.json", "conversations")["out"]
    assert set(counts(tmp_path / "chunk.json", "turns")["rejected"]) <= {"speaker_unknown"}
    tokens = open_tokens(tokenize(tmp_path / "chunks.json", model, tmp_path, "zephyr", "last_answer"))
    tools = sum(any(turn["from"] == "tool" for turn in chunk["conversations"]) for chunk in chunks)
    assert counts(tmp_path / "tokens.json", "chunks")["rejected"]["role_unknown_to_template"] == tools > 3
    rounds = counts(tmp_path / "tokens.json", "rounds")
    assert set(rounds["rejected"]) <= {"not_the_last_answer", "cut_at_max_length"}
    assert rounds["out"] == len(tokens)
    assert max(tokens["length"]) == LIMIT
    assert read_manifest(tmp_path / "tokens")["facts"]["notes"]["chunks cut at max_length"] > 3


def test_text_that_is_not_nfc_is_trained_as_nfc_and_counted(model, tmp_path):
    turns = [{"from": "human", "value": "Cafe\u0301?"}, {"from": "gpt", "value": "Cafe\u0301."}]
    rows = [{"id": "a", "conversations": turns}, {"id": "b", "conversations": [turns[0], {**turns[1], "value": "é"}]}]
    chunks = cut(rows_file(tmp_path / "mix.json", rows[:1]), model, tmp_path, "whole", "vicuna")
    (row,) = open_tokens(tokenize(chunks, model, tmp_path, "chatml"))
    published = AutoTokenizer.from_pretrained(model)
    assert published.decode([label for label in row["labels"] if label != IGNORED]) == "Café.<|im_end|>"
    facts = read_manifest(tmp_path / "tokens")["facts"]
    assert facts["notes"] == {"chunks with text that the tokenizer normalises": 1}


def turns(*texts: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": speaker, "value": text} for speaker, text in texts]


LONG = turns(("system", "Be brief."), ("human", "Hi"), ("gpt", "Hello."), ("human", "Is it safe?"))
PAIRS = {
    "A question": {"responses": ["Yes.", "\nNo"], "pairs": [[0, 1]], "sft_target": "Yes."},
    json.dumps(LONG, separators=(",", ":")): {
        "turns": LONG,
        "responses": ["Yes.", ""],
        "pairs": [[0, 1]],
        "sft_target": "Yes.",
    },
    "With <|im_end|> inside": {"responses": ["a", "b"], "pairs": [[0, 1]], "sft_target": "a"},
}


def tokenize_some_pairs(model: Path, out: Path, template: str, pairs: dict = PAIRS) -> Path:
    file = out / "pairs.json"
    file.write_text(json.dumps(pairs))
    settings = {"responses": None, "template": template, "max_length": 96, "max_prompt_length": 90}
    tokenize_pairs.main(
        rows=describe(file, "preference-pairs", [file]),
        model=model,
        settings=json.dumps(settings | {"truncation": "keep_end", "empty_responses": "keep"}),
        processes=1,
        tokens=out / "pairs",
        funnel=out / "funnel.json",
        rejects=out / "rejects.jsonl",
    )
    return out / "pairs"


def test_prompts_of_several_turns_are_rendered(model, tmp_path):
    (row,) = open_tokens(tokenize_some_pairs(model, tmp_path, "chatml"))
    published = AutoTokenizer.from_pretrained(model)
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    chat = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in LONG]
    jinja, _ = exported_chat(load_tokenizer(model), "chatml")
    prompt = published.apply_chat_template(chat, chat_template=jinja, add_generation_prompt=True, return_dict=True)
    assert row["prompt_length"] == len(prompt["input_ids"])
    # With the line end that the template writes behind the end of a turn.
    for side, response in (("chosen", "Yes.<|im_end|>\n"), ("rejected", "<|im_end|>\n")):
        assert row[f"{side}_input_ids"][: row["prompt_length"]] == prompt["input_ids"]
        assert published.decode(row[f"{side}_input_ids"][row["prompt_length"] :]) == response
    assert counts(tmp_path / "funnel.json", "pairs")["rejected"] == {
        "prompt_changed_by_response": 1,
        "end_of_sequence_in_text": 1,
    }


def test_without_a_template_there_is_no_place_for_several_turns(model, tmp_path):
    with pytest.raises(SystemExit, match=r"row 2: the prompt has 4 turns, .* Fix: set template to one that has"):
        tokenize_some_pairs(model, tmp_path, "none")
    assert not (tmp_path / "pairs").exists()


def test_an_unknown_template_is_told(model, tmp_path):
    with pytest.raises(SystemExit, match="tokenize_pairs: there is no template 'chatnl'; there are: chatml, llama3"):
        tokenize_some_pairs(model, tmp_path, "chatnl")


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_a_stand_in_has_a_tokenizer_of_the_kind(mix, tmp_path, kind):
    settings = {"tiny": TINY | {"tokenizer": kind, "vocabulary": 400}, "formats": ["sharegpt"]}
    for name in ("first", "second"):
        make_tiny_model.main(conversations=[mix], settings=json.dumps(settings), output=tmp_path / name)
    first, second = tmp_path / "first", tmp_path / "second"
    assert read_manifest(first)["digest"] == read_manifest(second)["digest"]
    tokenizer, published = load_tokenizer(first), AutoTokenizer.from_pretrained(first)
    network = AutoModelForCausalLM.from_pretrained(first)
    family = FAMILIES[kind]
    assert tokenizer.bos == (family.bos or "")
    assert tokenizer.eos_id == network.config.eos_token_id == network.generation_config.eos_token_id
    assert tokenizer.largest_id() == network.config.vocab_size - 1 == 399
    text = "  Cafe\u0301 12345\r\n\n don't  "
    assert published(text).input_ids == tokenizer.encode(text).tolist()
    assert tokenizer.changed(text) == family.nfc
    # A template of the family needs nothing else, and a model that is trained on it stops at the end of a turn.
    template = "llama3" if kind == "llama3" else "chatml"
    _, ends = exported_chat(tokenizer, template)
    assert [published.decode([end]) for end in ends] == [
        "<|eot_id|>" if kind == "llama3" else "<|im_end|>",
        family.eos,
    ]


def test_where_the_text_has_few_words_the_model_has_embeddings_to_spare(mix, tmp_path):
    settings = {"tiny": TINY | {"tokenizer": "qwen", "vocabulary": 9999}, "formats": ["sharegpt"]}
    make_tiny_model.main(conversations=[mix], settings=json.dumps(settings), output=tmp_path / "model")
    assert load_tokenizer(tmp_path / "model").largest_id() < 2000
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.vocab_size == 9999


def test_a_vocabulary_without_room_for_all_bytes_is_refused(mix, tmp_path):
    settings = {"tiny": TINY | {"tokenizer": "qwen", "vocabulary": 200}, "formats": ["sharegpt"]}
    with pytest.raises(SystemExit, match=r"are 259 entries\. Fix: set it to 259 or more"):
        make_tiny_model.main(conversations=[mix], settings=json.dumps(settings), output=tmp_path / "model")
    assert not (tmp_path / "model").exists()
