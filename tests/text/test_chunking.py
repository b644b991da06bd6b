"""Cutting conversations: the published faults, and that the other mode has none of them."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from amberline.data.conversations import Turn
from amberline.text.chunking import Chunk, fastchat_cut, is_human, lossless_cut, whole_cut

MAX = 2048
ALL = {"system", "human", "gpt", "tool"}


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


def lossless(turns, lengths, max_length=100, head=10, keep=True, speakers=ALL):
    """Cut with a prompt of `head` tokens and turns of those lengths."""
    return lossless_cut(
        turns,
        lambda chunk: head + sum(chunk.of(lengths)),
        lambda length, chunk, start: length + sum(lengths[start : chunk.end]),
        max_length,
        keep,
        speakers,
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

    def test_empty_turns_part_a_conversation_and_its_system_turn_stands_in_front_of_each_chunk(self):
        turns = [Turn("system", "s"), *dialogue(2), Turn("human", "q"), Turn("gpt", ""), *dialogue(2)]
        cut = lossless(turns, [5] * 7)
        assert cut.chunks == [Chunk(1, 3, system=True), Chunk(5, 7, system=True)]
        assert cut.chunks[1].of(turns) == [turns[0], *turns[5:]]
        assert cut.lost == [None, None, None, "question_without_answer", "empty_turn", None, None]

    def test_the_length_of_a_system_turn_counts_in_each_chunk(self):
        turns = [Turn("system", "s"), *dialogue(4)]
        assert lossless(turns, [30, 20, 10, 20, 10]).chunks == [Chunk(1, 5, system=True)]
        cut = lossless(turns, [31, 20, 10, 20, 10])
        assert cut.chunks == [Chunk(1, 3, system=True), Chunk(3, 5, system=True)]

    def test_a_system_turn_inside_parts_a_conversation_and_one_without_a_round_is_lost(self):
        turns = [*dialogue(2), Turn("system", "s"), *dialogue(2)]
        cut = lossless(turns, [5] * 5)
        assert cut.chunks == [Chunk(0, 2), Chunk(3, 5)]
        assert cut.lost[2] == "system_turn_inside"
        assert lossless([Turn("system", "s"), Turn("human", "q")], [5, 5]).lost[0] == "system_without_round"

    def test_what_tools_say_goes_on_an_answer(self):
        turns = [Turn(speaker, "x") for speaker in ("human", "gpt", "tool", "tool", "gpt", "human", "gpt", "tool")]
        cut = lossless(turns, [10] * 8, max_length=60)
        assert cut.chunks == [Chunk(0, 5), Chunk(5, 7)]
        assert cut.lost == [None] * 7 + ["tool_without_answer"]

    def test_speakers_that_the_template_has_no_place_for_are_counted(self):
        turns = [Turn("system", "s"), *dialogue(2), Turn("tool", "t")]
        cut = lossless(turns, [5] * 4, speakers={"human", "gpt"})
        assert cut.chunks == [Chunk(1, 3)]
        assert cut.lost == ["role_unknown_to_template", None, None, "role_unknown_to_template"]

    def test_other_names_of_the_speakers_count(self):
        assert lossless([Turn("user", "q"), Turn("bing", "a")], [5, 5]).chunks == [Chunk(0, 2)]


speakers = st.sampled_from([*["human", "gpt"] * 4, "user", "bard", "system", "narrator", "tool", "tool"])
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
    kept = [0] * any(chunk.system for chunk in cut.chunks)
    kept += [number for chunk in cut.chunks for number in range(chunk.start, chunk.end)]
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
        too_long = 10 + sum(chunk.of(lengths)) > 100
        over_long += too_long
        # Only a round by itself may be over-long.
        assert not too_long or (len(rounds) == 1 and is_human(turns[chunk.start]))
    assert over_long == cut.notes["over_long_rounds"]


@settings(derandomize=True, max_examples=300, deadline=None)
@given(measured())
def test_fastchat_accounts_for_every_turn(conversation):
    turns, lengths = conversation
    cut = fastchat_cut(turns, [length + 7 for length in lengths], 100)
    kept = [number for chunk in cut.chunks for number in range(chunk.start, chunk.end)]
    assert kept == [number for number, reason in enumerate(cut.lost) if reason is None]


def test_whole_cuts_nothing_and_loses_conversations_with_unknown_speakers():
    turns = [Turn("system", "s"), *dialogue(3), Turn("tool", ""), Turn("gpt", "")]
    assert whole_cut(turns).chunks == [Chunk(0, 6)]
    cut = whole_cut([*turns, Turn("narrator", "n")])
    assert (cut.chunks, cut.lost) == ([], ["speaker_unknown"] * 7)
