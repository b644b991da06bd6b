"""Long conversations cut into chunks that fit the context, and what becomes of every turn.

`fastchat_cut` is `fastchat.data.split_long_conversation` of fschat 0.2.36, its losses included. `lossless_cut` keeps
every round that fits. Both say for each turn whether it was kept and, if not, why.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from amberline.data.conversations import ASSISTANT_SPEAKERS, HUMAN_SPEAKERS, Turn

# FastChat takes a turn for its tokens, beginning-of-sequence token included, plus these: about what the template adds.
FASTCHAT_OVERHEAD = 6

FASTCHAT_ROLES = ("human", "gpt")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Turns `start` to `end` (exclusive) of a conversation."""

    start: int
    end: int


@dataclass(slots=True)
class Cut:
    """A conversation's chunks, why each turn was lost (None: it was kept), and what else should be known."""

    chunks: list[Chunk]
    lost: list[str | None]
    notes: Counter[str] = field(default_factory=Counter)


def fastchat_cut(turns: Sequence[Turn], lengths: Sequence[int], max_length: int) -> Cut:
    """Cut as FastChat does, then drop the chunks that it filters.

    `lengths` are FastChat's: tokens of each turn's text, with what the tokenizer puts in front of it, plus
    FASTCHAT_OVERHEAD. Turns are lost as odd_last_turn, last_pair_overflows or roles_do_not_alternate.
    """
    even = len(turns) // 2 * 2
    lost: list[str | None] = ["odd_last_turn" if number >= even else None for number in range(len(turns))]
    notes: Counter[str] = Counter()
    cut: list[Chunk] = []
    start = length = 0
    for first in range(0, even, 2):
        pair = lengths[first] + lengths[first + 1]
        if length + pair > max_length:
            cut.append(Chunk(start, first))
            start, length = first, 0
            # FastChat closes a chunk at the last pair only if that pair did not just overflow.
            if first == even - 2:
                lost[first:even] = ["last_pair_overflows"] * 2
        elif first == even - 2:
            cut.append(Chunk(start, even))
        length += pair
    chunks = []
    for chunk in cut:
        speakers = [turn.speaker for turn in turns[chunk.start : chunk.end]]
        if chunk.start == chunk.end:
            notes["empty_chunks"] += 1
        elif any(speaker != FASTCHAT_ROLES[number % 2] for number, speaker in enumerate(speakers)):
            lost[chunk.start : chunk.end] = ["roles_do_not_alternate"] * len(speakers)
        else:
            chunks.append(chunk)
    return Cut(chunks, lost, notes)


def lossless_cut(
    turns: Sequence[Turn],
    opening_length: Callable[[int, int], int],
    following_length: Callable[[int], int],
    max_length: int,
    keep_leading_answer: bool,
) -> Cut:
    """Cut so that every round that fits is kept, and an over-long round is kept alone.

    A conversation falls into stretches in which human and assistant alternate. A stretch's first turn may be an answer
    whose question is missing: it is kept as context where `keep_leading_answer` asks for that and there is room.
    `opening_length(start, end)` are the tokens of a chunk of those turns, `following_length(start)` those that the
    round at `start` adds to a chunk. Turns are lost as speaker_unknown, empty_turn, question_without_answer,
    answer_without_question, leading_answer or leading_answer_too_long.
    """
    lost = [_unusable(turn) for turn in turns]
    notes: Counter[str] = Counter()
    chunks: list[Chunk] = []
    for first, end in _stretches(turns, lost):
        leading = not is_human(turns[first])
        start = first + leading  # of the first round
        rounds_end = start + (end - start) // 2 * 2
        if rounds_end < end:
            lost[rounds_end] = "question_without_answer"
        opening = start
        if leading:
            if rounds_end == start:
                lost[first] = "answer_without_question"
            elif not keep_leading_answer:
                lost[first] = "leading_answer"
            elif opening_length(first, start + 2) > max_length:
                lost[first] = "leading_answer_too_long"
            else:
                opening = first
                notes["leading_answers_kept"] += 1
        length = 0
        for at in range(start, rounds_end, 2):
            if at > start and (longer := length + following_length(at)) <= max_length:
                length = longer
                continue
            if at > start:
                chunks.append(Chunk(opening, at))
                opening = at
            length = opening_length(opening, at + 2)
            notes["over_long_rounds"] += length > max_length
        if rounds_end > start:
            chunks.append(Chunk(opening, rounds_end))
    return Cut(chunks, lost, +notes)


def is_human(turn: Turn) -> bool:
    """Whether a turn is the human's, by any of the names in use."""
    return turn.speaker in HUMAN_SPEAKERS


def _unusable(turn: Turn) -> str | None:
    if turn.speaker not in HUMAN_SPEAKERS | ASSISTANT_SPEAKERS:
        return "speaker_unknown"
    return None if turn.text else "empty_turn"


def _stretches(turns: Sequence[Turn], lost: Sequence[str | None]) -> list[tuple[int, int]]:
    """First and end of each longest run of usable turns in which the sides alternate."""
    found = []
    first = None
    for number, turn in enumerate(turns):
        if first is not None and (lost[number] is not None or is_human(turn) == is_human(turns[number - 1])):
            found.append((first, number))
            first = None
        if first is None and lost[number] is None:
            first = number
    if first is not None:
        found.append((first, len(turns)))
    return found
