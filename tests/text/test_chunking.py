"""Cutting conversations: the published faults, and that the other mode has none of them."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from amberline.data.conversations import Turn
from amberline.text.chunking import Chunk, fastchat_cut, is_human, lossless_cut

MAX = 2048


def dialogue(count: int, first: str = "human") -> list[Turn]:
    sides = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [Turn(sides[number % 2], f"turn {number}") for number in range(count)]


def fastchat(lengths: list[int]):
    cut = fastchat_cut(dialogue(len(lengths)), lengths, MAX)
    return [(chunk.start, chunk.end) for chunk in cut.chunks], cut


class TestFastChat:
    """The table of its faults."""

    def test_the_last_pair_is_dropped_when_it_overflows(self):
        chunks, cut = fastchat([500, 500, 600, 600])
        assert chunks == [(0, 2)]
        assert cut.lost == [None, None, "last_pair_overflows", "last_pair_overflows"]

    def test_a_single_pair_that_is_one_token_too_long_is_lost(self):
        chunks, cut = fastchat([1000, 1049])
        assert chunks == []
        assert cut.notes["empty_chunks"] == 1

    def test_an_over_long_first_pair_gives_an_empty_chunk_and_a_second_of_the_same_id(self):
        chunks, cut = fastchat([3000, 3000, 100, 100])
        assert chunks == [(0, 2)]
        assert cut.notes["empty_chunks"] == 1
        assert cut.lost[2:] == ["last_pair_overflows"] * 2

    def test_an_over_long_pair_in_the_middle_stands_alone(self):
        chunks, cut = fastchat([100, 100, 3000, 3000, 100, 100])
        assert chunks == [(0, 2), (2, 4)]
        assert cut.lost[4:] == ["last_pair_overflows"] * 2

    def test_an_odd_last_turn_is_cut(self):
        chunks, cut = fastchat([10, 10, 10])
        assert chunks == [(0, 2)]
        assert cut.lost[2] == "odd_last_turn"

    def test_chunks_that_begin_with_the_assistant_are_dropped(self):
        cut = fastchat_cut(dialogue(4, first="gpt"), [10] * 4, MAX)
        assert cut.chunks == []
        assert cut.lost == ["roles_do_not_alternate"] * 4


def lossless(turns, lengths, max_length=100, head=10, keep=True):
    """Cut with a prompt of `head` tokens and turns of those lengths."""
    return lossless_cut(
        turns,
        lambda start, end: head + sum(lengths[start:end]),
        lambda start: lengths[start] + lengths[start + 1],
        max_length,
        keep,
    )


class TestLossless:
    def test_the_last_pair_is_kept(self):
        cut = lossless(dialogue(4), [40, 40, 40, 40])
        assert cut.chunks == [Chunk(0, 2), Chunk(2, 4)]
        assert cut.lost == [None] * 4

    def test_an_over_long_round_is_kept_alone_and_counted(self):
        cut = lossless(dialogue(6), [20, 20, 90, 90, 20, 20])
        assert cut.chunks == [Chunk(0, 2), Chunk(2, 4), Chunk(4, 6)]
        assert cut.notes["over_long_rounds"] == 1

    def test_a_leading_answer_is_context_where_asked(self):
        turns = dialogue(3, first="gpt")
        assert lossless(turns, [10, 10, 10]).chunks == [Chunk(0, 3)]
        cut = lossless(turns, [10, 10, 10], keep=False)
        assert cut.chunks == [Chunk(1, 3)]
        assert cut.lost == ["leading_answer", None, None]

    def test_a_leading_answer_without_room_is_dropped_and_its_round_kept(self):
        cut = lossless(dialogue(3, first="gpt"), [80, 10, 10])
        assert cut.chunks == [Chunk(1, 3)]
        assert cut.lost[0] == "leading_answer_too_long"

    def test_an_unanswered_question_is_counted(self):
        assert lossless(dialogue(3), [10] * 3).lost == [None, None, "question_without_answer"]

    def test_a_lone_answer_is_counted(self):
        cut = lossless([Turn("gpt", "a")], [10])
        assert (cut.chunks, cut.lost) == ([], ["answer_without_question"])

    def test_system_and_empty_turns_part_a_conversation(self):
        turns = [Turn("system", "s"), *dialogue(2), Turn("human", "q"), Turn("gpt", ""), *dialogue(2)]
        cut = lossless(turns, [5] * 7)
        assert cut.chunks == [Chunk(1, 3), Chunk(5, 7)]
        assert cut.lost == ["speaker_unknown", None, None, "question_without_answer", "empty_turn", None, None]

    def test_other_names_of_the_speakers_count(self):
        assert lossless([Turn("user", "q"), Turn("bing", "a")], [5, 5]).chunks == [Chunk(0, 2)]


speakers = st.sampled_from(["human", "human", "human", "gpt", "gpt", "gpt", "user", "bard", "system", "narrator"])
some_turns = st.lists(st.builds(Turn, speakers, st.sampled_from(["text", "text", "text", ""])), min_size=1, max_size=14)


@st.composite
def measured(draw):
    turns = draw(some_turns)
    return turns, [draw(st.integers(0, 120)) if turn.text else 0 for turn in turns]


@settings(derandomize=True, max_examples=400, deadline=None)
@given(measured(), st.booleans())
def test_lossless_keeps_every_round_that_fits(conversation, keep):
    turns, lengths = conversation
    cut = lossless(turns, lengths, keep=keep)
    kept = [number for chunk in cut.chunks for number in range(chunk.start, chunk.end)]
    # Chunks in order hold exactly the turns that are not lost: with the lost ones they give back the conversation.
    assert kept == [number for number, reason in enumerate(cut.lost) if reason is None]
    for number, (turn, answer) in enumerate(itertools.pairwise(turns)):
        answered = is_human(turn) and answer.speaker in {"gpt", "bard"} and turn.text and answer.text
        if answered:
            assert number in kept
            assert number + 1 in kept
    over_long = 0
    for chunk in cut.chunks:
        rounds = [turn for turn in turns[chunk.start : chunk.end] if is_human(turn)]
        too_long = 10 + sum(lengths[chunk.start : chunk.end]) > 100
        over_long += too_long
        # Only a round by itself may be over-long.
        assert not too_long or (len(rounds) == 1 and chunk.end - chunk.start == 2)
    assert over_long == cut.notes["over_long_rounds"]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(measured())
def test_fastchat_accounts_for_every_turn(conversation):
    turns, lengths = conversation
    cut = fastchat_cut(turns, [length + 7 for length in lengths], 100)
    kept = [number for chunk in cut.chunks for number in range(chunk.start, chunk.end)]
    assert kept == [number for number, reason in enumerate(cut.lost) if reason is None]
