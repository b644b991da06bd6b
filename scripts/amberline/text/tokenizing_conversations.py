"""Chunks of a file as ids and labels, every row accounted for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from amberline.core.funnel import Funnel, Reject
from amberline.data.conversations import BadRecord, Turn, parse_conversation
from amberline.data.streams import Piece, read_piece
from amberline.data.tokens import IGNORED, SEQUENCES
from amberline.recipe.data import ConversationTokens
from amberline.templates.base import Template
from amberline.text.chats import chat_of
from amberline.text.columns import ids_column
from amberline.text.masks import Masked, UnusableChunk, fastchat_mask, mask_answers
from amberline.text.tokenizers import Tokenizer, remembered_tokenizer


@dataclass(slots=True)
class TokenPiece:
    """What became of a piece of a file of chunks."""

    rows: int
    batch: pa.RecordBatch
    funnel: Funnel
    rejects: list[Reject]
    lengths: Counter[int] = field(default_factory=Counter)
    loss_tokens: int = 0

    @property
    def rows_out(self) -> int:
        """Rows of tokens."""
        return self.lengths.total() if self.loss_tokens else 0


def tokenize_piece(path: Path, model: Path, settings: ConversationTokens, piece: Piece) -> TokenPiece:
    """Ids and labels of the chunks of one piece of a file. Raises BadFile and TokenizerRefused."""
    tokenizer = remembered_tokenizer(model)
    chat = chat_of(tokenizer, settings.template)
    chat.check(last_only=settings.loss_on == "last_answer")
    funnel = Funnel("tokenize")
    rejects: list[Reject] = []
    names: list[str] = []
    samples: list[Masked] = []
    rows = 0
    for row, value in read_piece(path, piece):
        rows += 1
        funnel.add("chunks", into=1)
        try:
            chunk = parse_conversation(value)
            sample = mask(tokenizer, chunk.turns, settings)
        except (BadRecord, UnusableChunk) as fault:
            funnel.reject("chunks", fault.reason)
            rejects.append(Reject(path.name, row, None, fault.reason, fault.detail, value))
            continue
        kept = account(funnel, chunk.turns, sample, settings, chat.template)
        if any(chat.has_special_text(turn.text) for turn in chunk.turns):
            funnel.note("chunks with the text of a special token, which is read as that token")
        if any(tokenizer.changed(turn.text) for turn in chunk.turns):
            funnel.note("chunks with text that the tokenizer normalises")
        if kept:
            names.append(chunk.id)
            samples.append(sample)
        if not kept or sample.cut or sample.mismatch:
            reason = "masked_whole" if sample.mismatch else "cut_at_max_length" if kept else _lost(chunk.turns)
            detail = f"{len(sample.input_ids) + sample.cut} tokens"
            rejects.append(Reject(path.name, row, chunk.id, reason, detail, None if kept else value, kept))
    lengths = [len(sample.input_ids) for sample in samples]
    columns = [
        pa.array(names, pa.string()),
        ids_column([sample.input_ids for sample in samples]),
        ids_column([sample.labels for sample in samples]),
        pa.array(lengths, pa.int32()),
    ]
    loss_tokens = sum(int(np.count_nonzero(sample.labels != IGNORED)) for sample in samples)
    batch = pa.record_batch(columns, schema=SEQUENCES)
    return TokenPiece(rows, batch, funnel, rejects, Counter(lengths), loss_tokens)


def mask(tokenizer: Tokenizer, turns: Sequence[Turn], settings: ConversationTokens) -> Masked:
    """Ids and labels of a chunk in the mode asked for. Raises BadRecord and UnusableChunk."""
    if settings.mode == "fastchat":
        return fastchat_mask(tokenizer, turns, settings.max_length)
    return mask_answers(chat_of(tokenizer, settings.template), turns, settings.max_length, settings.loss_on)


def account(
    funnel: Funnel, turns: Sequence[Turn], sample: Masked, settings: ConversationTokens, template: Template
) -> bool:
    """Count a chunk, its rounds (answers, each to a question) and its tokens; say whether the chunk is kept."""
    answers = [turn.text for turn in turns[1:] if turn.speaker == "gpt"]
    rounds = len(answers)
    empty = 0 if template.writes_empty_answers else answers.count("")
    others = max(0, rounds - empty - 1) if settings.loss_on == "last_answer" else 0
    learnt = min(rounds - empty, sample.learnt)
    # FastChat trains on samples without any loss too, so in its mode they stay.
    kept = bool((sample.labels != IGNORED).any()) or settings.mode == "fastchat"
    funnel.add("chunks", out=kept)
    funnel.add("rounds", into=rounds, out=learnt)
    funnel.add("tokens", into=len(sample.input_ids) + sample.cut, out=len(sample.input_ids) * kept)
    if not kept:
        funnel.reject("chunks", _lost(turns))
        funnel.reject("tokens", _lost(turns), len(sample.input_ids))
    if ends_alone := answers.count("") - empty:
        funnel.note("empty answers, of which the end alone is learnt", ends_alone)
    if sample.cut:
        funnel.reject("tokens", "cut_at_max_length", sample.cut)
        funnel.note("chunks cut at max_length")
    if sample.mismatch:
        funnel.note("chunks masked whole, as FastChat does")
    for reason, count in (
        ("empty_answer", empty),
        ("not_the_last_answer", others),
        ("masked_whole" if sample.mismatch else "cut_at_max_length", rounds - empty - others - learnt),
    ):
        if count:
            funnel.reject("rounds", reason, count)
    if kept:
        funnel.observe("tokens in a chunk, with its template", len(sample.input_ids))
        funnel.observe("rounds in a chunk", rounds)
    return kept


def _lost(turns: Sequence[Turn]) -> str:
    """Why no token of a chunk is learnt."""
    answers = any(turn.speaker == "gpt" and turn.text for turn in turns[1:])
    return "no_answer_before_max_length" if answers else "no_answer"
