"""Conversations of a file cut into chunks, every turn accounted for, in both modes side by side."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from amberline.core.funnel import Funnel, Reject
from amberline.data.conversations import BadRecord, Conversation, Turn, parse_conversation
from amberline.data.streams import Piece, read_piece
from amberline.recipe.data import Chunk as ChunkSettings
from amberline.text.chunking import FASTCHAT_OVERHEAD, Chunk, Cut, fastchat_cut, is_human, lossless_cut
from amberline.text.template import render, render_round
from amberline.text.tokenizers import Tokenizer, remembered_tokenizer

MODES = ("fastchat", "lossless")


@dataclass(slots=True)
class ChunkedPiece:
    """What became of a piece of a file: chunks and rejects of the mode asked for, accounts of both modes."""

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
    made = ChunkedPiece(0, [], [], {mode: Funnel("chunk") for mode in MODES}, [])
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
            cut = cut_conversation(tokenizer, conversation.turns, tokens, settings, mode)
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
    named = [_named(turn) for turn in turns]
    alone = [tokenizer.stands_alone(turn.text) for turn in turns]
    frame = template_lengths(tokenizer)

    def opening_length(start: int, end: int) -> int:
        if end - start == 2 and alone[start] and alone[start + 1]:
            return frame.opening + tokens[start] + tokens[start + 1]
        return len(tokenizer.encode("".join(part.text for part in render(named[start:end], tokenizer.eos))))

    def following_length(start: int) -> int:
        if alone[start] and alone[start + 1]:
            return frame.following + tokens[start] + tokens[start + 1]
        return tokenizer.count_following(render_round(named[start], named[start + 1], tokenizer.eos))

    return lossless_cut(turns, opening_length, following_length, settings.max_length, settings.keep_leading_answer)


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
    """A chunk in FastChat's shape; speakers are "human" and "gpt" whatever the data calls them."""
    turns = conversation.turns[chunk.start : chunk.end]
    return {
        "id": f"{conversation.id}_{chunk.start}",
        "model": "",
        "conversations": [{"from": turn.speaker, "value": turn.text} for turn in map(_named, turns)],
    }


def _named(turn: Turn) -> Turn:
    speaker = "human" if is_human(turn) else "gpt"
    return turn if turn.speaker == speaker else Turn(speaker, turn.text)


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
        funnel.observe("turns in a chunk", chunk.end - chunk.start)
        funnel.observe("tokens in the texts of a chunk", sum(tokens[chunk.start : chunk.end]))


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
