"""Long conversations cut into chunks that fit the context, and what becomes of every turn.

`fastchat_cut` is `fastchat.data.split_long_conversation` of fschat 0.2.36, its losses included. `lossless_cut` keeps
every round that fits. `whole_cut` cuts nothing. All say for each turn whether it was kept and, if not, why.
"""

from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from amberline.data.conversations import ASSISTANT_SPEAKERS, HUMAN_SPEAKERS, KNOWN_SPEAKERS, Turn

Each = TypeVar("Each")

# FastChat takes a turn for its tokens, beginning-of-sequence token included, plus these: about what the template adds.
FASTCHAT_OVERHEAD = 6

FASTCHAT_ROLES = ("human", "gpt")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Turns `start` to `end` (exclusive) of a conversation; with `system`, behind its first one."""

    start: int
    end: int
    system: bool = False

    def of(self, turns: Sequence[Each]) -> list[Each]:
        """Its turns, or what there is for each."""
        return [*turns[: self.system], *turns[self.start : self.end]]


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


def whole_cut(turns: Sequence[Turn]) -> Cut:
    """The conversation as one chunk. It is lost whole where a speaker is unknown, as speaker_unknown."""
    if any(turn.speaker not in KNOWN_SPEAKERS for turn in turns):
        return Cut([], ["speaker_unknown"] * len(turns))
    return Cut([Chunk(0, len(turns))], [None] * len(turns))


def lossless_cut(
    turns: Sequence[Turn],
    opening_length: Callable[[Chunk], int],
    grown_length: Callable[[int, Chunk, int], int],
    max_length: int,
    keep_leading_answer: bool,
    speakers: Container[str],
) -> Cut:
    """Cut so that every round that fits is kept, and an over-long round is kept alone.

    A conversation falls into stretches in which human and assistant alternate; what a tool says, and the assistant to
    that, goes on an answer. A system turn in front is kept in front of each chunk. A stretch's first turn may be an
    answer whose question is missing: it is kept as context where `keep_leading_answer` asks for that and there is room.
    `opening_length(chunk)` are the tokens of a chunk, `grown_length(length, chunk, start)` those of a chunk of which
    those before the round at `start` are known. `speakers` are those that the template has a place for, of "system",
    "human", "gpt" and "tool". Turns are lost as speaker_unknown, role_unknown_to_template, empty_turn,
    system_turn_inside, tool_without_answer, question_without_answer, answer_without_question, leading_answer or
    leading_answer_too_long.
    """
    lost = _unusable(turns, speakers)
    system = turns[0].speaker == "system" and lost[0] is None
    notes: Counter[str] = Counter()
    chunks: list[Chunk] = []
    for first, stretch_end in _stretches(turns, lost):
        rounds = [number for number in range(first, stretch_end) if is_human(turns[number])]
        end = stretch_end
        if rounds and rounds[-1] == end - 1:
            end = rounds.pop()
            lost[end] = "question_without_answer"
        start = opening = rounds[0] if rounds else end  # of the first round
        if start > first:
            reason = None
            if not rounds:
                reason = "answer_without_question"
            elif not keep_leading_answer:
                reason = "leading_answer"
            elif opening_length(Chunk(first, [*rounds, end][1], system)) > max_length:
                reason = "leading_answer_too_long"
            else:
                opening = first
                notes["leading_answers_kept"] += 1
            lost[first:start] = [reason] * (start - first)
        length = 0
        for at, until in pairwise([*rounds, end]):
            if at > start and (longer := grown_length(length, Chunk(opening, until, system), at)) <= max_length:
                length = longer
                continue
            if at > start:
                chunks.append(Chunk(opening, at, system))
                opening = at
            length = opening_length(Chunk(opening, until, system))
            notes["over_long_rounds"] += length > max_length
        if rounds:
            chunks.append(Chunk(opening, end, system))
    if system and not chunks:
        lost[0] = "system_without_round"
    return Cut(chunks, lost, +notes)


def is_human(turn: Turn) -> bool:
    """Whether a turn is the human's, by any of the names in use."""
    return turn.speaker in HUMAN_SPEAKERS


def named(turn: Turn) -> Turn:
    """A turn with its speaker as templates know it: "system", "human", "gpt" or "tool"."""
    speaker = turn.speaker if turn.speaker in {"system", "tool"} else "human" if is_human(turn) else "gpt"
    return turn if turn.speaker == speaker else Turn(speaker, turn.text)


def _unusable(turns: Sequence[Turn], speakers: Container[str]) -> list[str | None]:
    """Why turns cannot be kept, whatever stands around them; of tools, whatever is around their own."""
    lost: list[str | None] = []
    for number, turn in enumerate(turns):
        if turn.speaker not in KNOWN_SPEAKERS:
            lost.append("speaker_unknown")
        elif named(turn).speaker not in speakers:
            lost.append("role_unknown_to_template")
        elif turn.speaker == "system" and number > 0:
            lost.append("system_turn_inside")
        else:
            lost.append(None if turn.text else "empty_turn")
    for order in (range(len(turns)), reversed(range(len(turns)))):
        beside_answer = False
        for number in order:
            if turns[number].speaker == "tool" and lost[number] is None and not beside_answer:
                lost[number] = "tool_without_answer"
            elif turns[number].speaker != "tool" or lost[number] is not None:
                beside_answer = lost[number] is None and turns[number].speaker in ASSISTANT_SPEAKERS
    return lost


def _stretches(turns: Sequence[Turn], lost: Sequence[str | None]) -> list[tuple[int, int]]:
    """First and end of each longest run of usable turns in which the sides alternate."""
    found = []
    first = None
    for number, turn in enumerate(turns):
        if first is not None and (lost[number] is not None or not _follows(turn, turns[number - 1])):
            found.append((first, number))
            first = None
        if first is None and lost[number] is None and turn.speaker != "system":
            first = number
    if first is not None:
        found.append((first, len(turns)))
    return found


def _follows(turn: Turn, before: Turn) -> bool:
    """Whether a usable turn goes on a stretch: the other side's, or one around a tool's."""
    return "tool" in {turn.speaker, before.speaker} or is_human(turn) != is_human(before)
