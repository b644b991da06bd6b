"""The loss is on the answers and nothing else."""

import re

import numpy as np
import pytest
from generated import ODD_TEXTS, conversations
from hypothesis import given, settings
from hypothesis import strategies as st

from amberline.data.conversations import BadRecord, Turn, parse_conversation
from amberline.templates.vicuna import render
from amberline.text.chats import chat_of
from amberline.text.masks import IGNORED, UnusableChunk, fastchat_mask, mask_answers
from amberline.text.tokenizers import TokenizerRefused

words = st.sampled_from(["a", "Hello there", "x = 1", "你好", "tail ", " head", "line\nline", "  ", "▁", "</s>", "é🙂"])
texts = st.lists(words, min_size=1, max_size=4).map("".join)
dialogues = st.lists(st.tuples(texts, texts), min_size=1, max_size=5).map(
    lambda rounds: [Turn(side, text) for both in rounds for side, text in zip(("human", "gpt"), both, strict=True)]
)


def learnt(tokenizer, sample) -> list[str]:
    """Text of each stretch of tokens with a loss."""
    bears = np.concatenate([[False], sample.labels != IGNORED, [False]])
    edges = np.flatnonzero(bears[1:] != bears[:-1])
    stretches = [sample.input_ids[start:end].tolist() for start, end in zip(edges[::2], edges[1::2], strict=True)]
    if hasattr(tokenizer, "_whole"):
        processor = tokenizer._whole
        pieces = ["".join(processor.id_to_piece(number) for number in ids) for ids in stretches]
        return [_bytes_to_text(text.replace("▁", " ")) for text in pieces]
    return [tokenizer._encoder.decode(ids, skip_special_tokens=False) for ids in stretches]


def _bytes_to_text(pieces: str) -> str:
    """SentencePiece writes a character that it has no entry for as its bytes: <0xE4><0xBD>..."""
    return re.sub(
        "(?:<0x[0-9A-F]{2}>)+",
        lambda found: bytes.fromhex(re.sub("<0x|>", "", found.group())).decode(),
        pieces,
    )


@settings(derandomize=True, max_examples=200, deadline=None)
@given(dialogues)
@pytest.mark.parametrize("kind", ["legacy", "modern", "byte_level"])
def test_the_loss_covers_exactly_the_answers(request, kind, turns):
    tokenizer = request.getfixturevalue(kind)
    sample = mask_answers(chat_of(tokenizer, "vicuna"), turns, 10_000)
    parts = render(turns, tokenizer.eos)
    assert sample.input_ids.tolist() == tokenizer.encode("".join(part.text for part in parts)).tolist()
    expected = [part.text.replace("▁", " ") if kind != "byte_level" else part.text for part in parts if part.is_answer]
    if kind == "legacy":
        # A literal end token inside an answer is followed by the space that legacy mode puts there.
        got = ["".join(text.split()) for text in learnt(tokenizer, sample)]
        assert got == ["".join(text.split()) for text in expected]
    else:
        assert learnt(tokenizer, sample) == expected
    bears = sample.labels != IGNORED
    assert (sample.labels[bears] == sample.input_ids[bears]).all()


@pytest.mark.parametrize("kind", ["legacy", "modern"])
def test_both_modes_agree_wherever_fastchat_does_not_mask_the_whole(request, kind):
    tokenizer = request.getfixturevalue(kind)
    agreed = masked_whole = 0
    for row in conversations(200, seed=11):
        turns = parse_conversation(row).turns
        try:
            published = fastchat_mask(tokenizer, turns, 2048)
        except UnusableChunk:
            continue
        odd = any(turn.text in ODD_TEXTS or "</s>" in turn.text for turn in turns)
        if odd or len(turns) < 2 or turns[0].speaker != "human":
            continue
        ours = mask_answers(chat_of(tokenizer, "vicuna"), turns, 2048)
        assert ours.input_ids.tolist() == published.input_ids.tolist()
        if published.mismatch:
            masked_whole += 1
            assert (ours.labels != IGNORED).any()
        else:
            agreed += 1
            assert ours.labels.tolist() == published.labels.tolist(), row["id"]
    assert agreed > 50


def test_fastchat_masks_a_sample_whole_on_a_mismatch_and_lossless_trains_on_it(legacy):
    turns = [Turn("human", "say <unk>"), Turn("gpt", "fine")]
    published, ours = fastchat_mask(legacy, turns, 2048), mask_answers(chat_of(legacy, "vicuna"), turns, 2048)
    assert published.mismatch
    assert (published.labels == IGNORED).all()
    assert learnt(legacy, ours) == [" fine</s>"]


def test_a_leading_answer_bears_no_loss(legacy):
    sample = mask_answers(
        chat_of(legacy, "vicuna"), [Turn("gpt", "before"), Turn("human", "q"), Turn("gpt", "a")], 2048
    )
    assert learnt(legacy, sample) == [" a</s>"]


SEVERAL = [Turn("human", "q1"), Turn("gpt", "a1"), Turn("human", "q2"), Turn("gpt", "a2")]


@pytest.mark.parametrize(("loss_on", "expected"), [("answers", [" a1</s>", " a2</s>"]), ("last_answer", [" a2</s>"])])
def test_the_loss_is_on_the_answers_that_are_asked_for(legacy, loss_on, expected):
    sample = mask_answers(chat_of(legacy, "vicuna"), SEVERAL, 2048, loss_on)
    assert learnt(legacy, sample) == expected
    assert sample.learnt == len(expected)


def test_with_all_every_token_is_learnt_that_something_predicts(legacy):
    sample = mask_answers(chat_of(legacy, "zephyr"), SEVERAL, 2048, "all")
    assert sample.labels.tolist() == [IGNORED, *sample.input_ids[1:].tolist()]
    assert sample.learnt == 2
    # The second answer lies behind the cut.
    assert mask_answers(chat_of(legacy, "zephyr"), SEVERAL, len(sample.input_ids) // 2, "all").learnt == 1


def test_a_template_whose_tokens_the_tokenizer_lacks_is_refused(legacy):
    with pytest.raises(TokenizerRefused, match=r"chatml needs '<\|im_start\|>' as one token, .* Fix: choose"):
        chat_of(legacy, "chatml")


def test_a_role_that_the_template_has_no_place_for_is_told(legacy):
    for template, turns in (
        ("zephyr", [*SEVERAL, Turn("tool", "t"), Turn("gpt", "a")]),
        ("vicuna", [*SEVERAL, Turn("system", "s"), Turn("gpt", "a")]),
    ):
        with pytest.raises(BadRecord, match=f"turn 5 is of .* {template} has no place") as fault:
            mask_answers(chat_of(legacy, template), turns, 2048)
        assert fault.value.reason == "role_unknown_to_template"


def test_truncation_is_counted_and_pads_nothing(legacy):
    turns = [Turn("human", "q"), Turn("gpt", "word " * 300)]
    whole, cut = (
        mask_answers(chat_of(legacy, "vicuna"), turns, 10_000),
        mask_answers(chat_of(legacy, "vicuna"), turns, 64),
    )
    assert len(cut.input_ids) == 64
    assert cut.cut == len(whole.input_ids) - 64
    assert cut.labels.tolist() == whole.labels.tolist()[:64]


@pytest.mark.parametrize(
    ("speakers", "reason"),
    [(["human", "human"], "roles_do_not_alternate"), (["human", "system"], "speaker_unknown")],
)
def test_where_fastchat_stops_with_an_error_the_chunk_is_named(legacy, speakers, reason):
    with pytest.raises(UnusableChunk) as error:
        fastchat_mask(legacy, [Turn(speaker, "text") for speaker in speakers], 2048)
    assert error.value.reason == reason


def test_fastchats_way_is_refused_for_other_tokenizers(byte_level):
    with pytest.raises(TokenizerRefused, match="lossless"):
        fastchat_mask(byte_level, [Turn("human", "q"), Turn("gpt", "a")], 2048)


def test_the_last_answer_is_not_one_before_it_where_it_is_empty(modern):
    """Vicuna has no text for an empty answer."""
    turns = [Turn("human", "q"), Turn("gpt", "first"), Turn("human", "q"), Turn("gpt", "")]
    assert learnt(modern, mask_answers(chat_of(modern, "vicuna"), turns, 1000, "last_answer")) == []
    assert learnt(modern, mask_answers(chat_of(modern, "vicuna"), turns[:2], 1000, "last_answer")) == [" first</s>"]
    assert learnt(modern, mask_answers(chat_of(modern, "zephyr"), turns, 1000, "last_answer")) == ["</s>"]
