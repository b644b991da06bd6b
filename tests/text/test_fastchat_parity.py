"""`fastchat` mode is FastChat: its chunks, its ids, its labels."""

import itertools
import json
import os
from pathlib import Path

import pytest
from generated import conversations
from parity import fastchat_chunks, mask_differences, our_chunks
from slow_llama import SlowLlama
from tokenizer_folders import MODEL

from amberline.data.conversations import parse_conversation
from amberline.text.masks import fastchat_mask

KINDS = ("legacy", "modern")


@pytest.fixture(params=KINDS)
def pair(request):
    """The oracle and our tokenizer, in legacy mode and not."""
    return SlowLlama(MODEL, legacy=request.param == "legacy"), request.getfixturevalue(request.param)


@pytest.mark.parametrize("max_length", [256, 2048])
def test_generated_conversations_give_the_same_chunks_and_masks(pair, max_length):
    slow, tokenizer = pair
    rows = conversations(150, seed=max_length)
    expected = fastchat_chunks(rows, slow, max_length)
    assert our_chunks(rows, tokenizer, max_length) == expected
    assert len(expected) > 50
    assert mask_differences(expected, slow, tokenizer, max_length) == []


def test_the_generated_conversations_bring_fastchats_faults_out(pair):
    _, tokenizer = pair
    chunks = our_chunks(conversations(150, seed=2048), tokenizer, 2048)
    masked = [fastchat_mask(tokenizer, parse_conversation(chunk).turns, 2048) for chunk in chunks]
    assert sum(sample.mismatch for sample in masked) > 5
    assert sum(sample.cut > 0 for sample in masked) > 5


def test_chunks_that_begin_with_the_assistant_are_masked_alike(pair):
    slow, tokenizer = pair
    rows = [row for row in conversations(300, seed=3) if alternates(row) and row["conversations"][0]["from"] == "gpt"]
    assert len(rows) > 20
    assert mask_differences(rows, slow, tokenizer, 2048) == []


def alternates(row) -> bool:
    speakers = [turn["from"] for turn in row["conversations"]]
    return set(speakers) <= {"human", "gpt"} and all(a != b for a, b in itertools.pairwise(speakers))


@pytest.mark.skipif("AMBERLINE_REAL_DATA" not in os.environ, reason="AMBERLINE_REAL_DATA names no folder of real rows")
@pytest.mark.timeout(3600)
def test_real_rows_and_ten_thousand_generated_ones(pair):
    """Slow: run by hand with AMBERLINE_REAL_DATA set to a folder of JSON arrays of ShareGPT-like rows."""
    slow, tokenizer = pair
    files = sorted(Path(os.environ["AMBERLINE_REAL_DATA"]).glob("*.json"))
    assert files
    sources = {file.name: json.loads(file.read_text()) for file in files}
    sources["generated"] = conversations(10_000, seed=1)
    for name, rows in sources.items():
        expected = fastchat_chunks(rows, slow, 2048)
        assert our_chunks(rows, tokenizer, 2048) == expected, name
        different = mask_differences(expected, slow, tokenizer, 2048)
        print(f"{name}: {len(rows)} rows, {len(expected)} chunks, {len(different)} differences")
        assert different == [], name
