"""Conversations of a file cut into chunks, every turn accounted for; the modes of Vicuna side by side."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from amberline.core.funnel import Funnel, Reject
from amberline.data.conversations import BadRecord, Conversation, Turn, parse_conversation, turn_to_json
from amberline.data.streams import Piece, read_piece
from amberline.recipe.data import Chunk as ChunkSettings
from amberline.templates.vicuna import render, render_round
from amberline.text.chats import Chat, chat_of
from amberline.text.chunking import (
    FASTCHAT_OVERHEAD,
    Chunk,
    Cut,
    fastchat_cut,
    is_human,
    lossless_cut,
    named,
    whole_cut,
)
from amberline.text.tokenizers import Tokenizer, remembered_tokenizer

MODES = ("fastchat", "lossless")


def modes_of(settings: ChunkSettings) -> list[str]:
    """Modes that are accounted for: the one asked for, and beside it the other one that cuts for Vicuna."""
    compared = settings.mode in MODES and settings.template == "vicuna"
    return list(MODES) if compared else [settings.mode]


@dataclass(slots=True)
class ChunkedPiece:
    """What became of a piece of a file: chunks and rejects of the mode asked for, accounts of all in `modes_of`."""

    rows: int
    kept: list[int]  # rows that gave a chunk
    chunks: list[bytes]
    funnels: dict[str, Funnel]
    rejects: list[Reject]

    @property
    def rows_out(self) -> int:
        """Chunks of the mode asked for."""
        return len(self.chunks)


def chunk_piece(path: Path, model: Path, settings: ChunkSettings, piece: Piece) -> ChunkedPiece:
    """Cut the conversations of one piece of a file. Raises BadFile and TokenizerRefused."""
    tokenizer = remembered_tokenizer(model)
    made = ChunkedPiece(0, [], [], {mode: Funnel("chunk") for mode in modes_of(settings)}, [])
    for row, value in read_piece(path, piece):
        made.rows += 1
        try:
            conversation = parse_conversation(value)
        except BadRecord as fault:
            for funnel in made.funnels.values():
                funnel.add("conversations", into=1)
                funnel.reject("conversations", fault.reason)
            made.rejects.append(Reject(path.name, row, None, fault.reason, fault.detail, value))
            continue
        tokens = [tokenizer.count(turn.text) for turn in conversation.turns]
        for mode, funnel in made.funnels.items():
            try:
                cut = cut_conversation(tokenizer, conversation.turns, tokens, settings, mode)
            except BadRecord as fault:  # the tokenizer's own template may refuse a conversation
                cut = Cut([], [fault.reason] * len(conversation.turns))
            account(funnel, conversation.turns, tokens, cut)
            if mode == settings.mode:
                made.kept += [row] * bool(cut.chunks)
                made.chunks.extend(orjson.dumps(chunk_json(conversation, chunk)) for chunk in cut.chunks)
                made.rejects.extend(_rejects(path.name, row, conversation, cut))
    return made


def cut_conversation(
    tokenizer: Tokenizer, turns: Sequence[Turn], tokens: Sequence[int], settings: ChunkSettings, mode: str
) -> Cut:
    """Cut a conversation in one mode. `tokens` are those of each turn's text by itself."""
    if mode == "fastchat":
        return fastchat_cut(
            turns, [count + tokenizer.added() + FASTCHAT_OVERHEAD for count in tokens], settings.max_length
        )
    if mode == "whole":
        return whole_cut(turns)
    chat, known = chat_of(tokenizer, settings.template), [named(turn) for turn in turns]
    lengths = _Lengths(chat, known) if settings.template != "vicuna" else _LengthsInVicuna(chat, known, tokens)
    return lossless_cut(
        turns,
        lengths.opening,
        lengths.grown,
        settings.max_length,
        settings.keep_leading_answer,
        chat.template.speakers,
    )


class _Lengths:
    """Tokens of a conversation's chunks, counted anew each time: in few templates the tokens of rounds add up."""

    def __init__(self, chat: Chat, turns: Sequence[Turn]) -> None:
        self._chat, self._turns = chat, turns

    def opening(self, chunk: Chunk) -> int:
        """See lossless_cut."""
        return self._chat.count(chunk.of(self._turns))

    def grown(self, length: int, chunk: Chunk, start: int) -> int:  # noqa: ARG002
        """See lossless_cut."""
        return self.opening(chunk)


class _LengthsInVicuna(_Lengths):
    """The same, from `tokens` of each turn's text where they add up: each round is a human turn and its answer."""

    def __init__(self, chat: Chat, turns: Sequence[Turn], tokens: Sequence[int]) -> None:
        super().__init__(chat, turns)
        self._tokens, self._tokenizer = tokens, chat.tokenizer
        self._alone = [chat.tokenizer.stands_alone(turn.text) for turn in turns]
        self._frame = template_lengths(chat.tokenizer)

    def opening(self, chunk: Chunk) -> int:
        """See lossless_cut."""
        start = chunk.start
        if chunk.end - start == 2 and self._alone[start] and self._alone[start + 1] and not chunk.system:
            return self._frame.opening + self._tokens[start] + self._tokens[start + 1]
        return super().opening(chunk)

    def grown(self, length: int, chunk: Chunk, start: int) -> int:  # noqa: ARG002
        """See lossless_cut."""
        if self._alone[start] and self._alone[start + 1]:
            return length + self._frame.following + self._tokens[start] + self._tokens[start + 1]
        added = render_round(self._turns[start], self._turns[start + 1], self._tokenizer.eos)
        return length + self._tokenizer.count_following(added)


class TemplateLengths(NamedTuple):
    """Tokens that the template adds to a round's texts: to a chunk's first round, and to one that follows another."""

    opening: int
    following: int


@lru_cache(maxsize=1)
def template_lengths(tokenizer: Tokenizer) -> TemplateLengths:
    """Measured on a round whose texts stand alone."""
    question, answer = Turn("human", "a"), Turn("gpt", "a")
    opening = len(tokenizer.encode("".join(part.text for part in render([question, answer], tokenizer.eos))))
    following = tokenizer.count_following(render_round(question, answer, tokenizer.eos))
    return TemplateLengths(opening - 2 * tokenizer.count("a"), following - 2 * tokenizer.count("a"))


def chunk_json(conversation: Conversation, chunk: Chunk) -> dict[str, Any]:
    """A chunk in FastChat's shape, with speakers as templates know them, whatever the data calls them."""
    return {
        "id": f"{conversation.id}_{chunk.start}",
        "model": "",
        "conversations": [turn_to_json(named(turn)) for turn in chunk.of(conversation.turns)],
    }


def account(funnel: Funnel, turns: Sequence[Turn], tokens: Sequence[int], cut: Cut) -> None:
    """Count a conversation, its turns, rounds (a human turn and the answer behind it) and the tokens of its texts."""
    funnel.add("conversations", into=1, out=bool(cut.chunks))
    if not cut.chunks:
        funnel.reject("conversations", cut.lost[0] or "")
    lost = Counter(reason for reason in cut.lost if reason is not None)
    lost_tokens: Counter[str] = Counter()
    for count, reason in zip(tokens, cut.lost, strict=True):
        if count and reason is not None:
            lost_tokens[reason] += count
    for unit, total, rejected in (("turns", len(turns), lost), ("tokens of texts", sum(tokens), lost_tokens)):
        funnel.add(unit, into=total, out=total - rejected.total())
        for reason, count in rejected.items():
            funnel.reject(unit, reason, count)
    for first in _rounds(turns):
        reason = cut.lost[first + 1] or cut.lost[first]
        funnel.add("rounds", into=1, out=reason is None)
        if reason is not None:
            funnel.reject("rounds", reason)
    for name, count in cut.notes.items():
        funnel.note(name, count)
    funnel.note("chunks", len(cut.chunks))
    funnel.observe("turns in a conversation", len(turns))
    funnel.observe("tokens in the texts of a conversation", sum(tokens))
    for chunk in cut.chunks:
        funnel.observe("turns in a chunk", len(chunk.of(turns)))
        funnel.observe("tokens in the texts of a chunk", sum(chunk.of(tokens)))


def _rounds(turns: Sequence[Turn]) -> Iterable[int]:
    """Where a human turn is followed by an answer."""
    sides = ["human" if is_human(turn) else turn.speaker != "system" for turn in turns]
    return (number for number in range(len(turns) - 1) if sides[number] == "human" and sides[number + 1] is True)


def _rejects(file: str, row: int, conversation: Conversation, cut: Cut) -> Iterable[Reject]:
    """One line for every reason for which turns of a conversation were lost."""
    for reason in dict.fromkeys(reason for reason in cut.lost if reason is not None):
        numbers = [str(number) for number, why in enumerate(cut.lost, 1) if why == reason]
        detail = f"turns {', '.join(numbers)} of {len(cut.lost)}"
        kept = bool(cut.chunks)
        yield Reject(file, row, conversation.id, reason, detail, None if kept else conversation.to_json(), kept)
