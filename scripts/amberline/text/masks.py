"""Input ids and labels of a chunk: the loss is on the assistant's answers and the end of turn behind each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from amberline.data.conversations import Turn
from amberline.data.tokens import IGNORED
from amberline.recipe.data import LossOn
from amberline.templates.vicuna import ASSISTANT, END, render
from amberline.text.chats import Chat, chat_of
from amberline.text.tokenizers import Ids, Tokenizer, TokenizerRefused

# What FastChat cuts a turn at, to tell the question from the answer.
ANSWER_MARK = f" {ASSISTANT}: "


class UnusableChunk(Exception):
    """A chunk cannot be trained on: `reason` is a fixed word for counting, `detail` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Masked:
    """A sample: ids, labels (IGNORED where there is no loss, not shifted), both int32 of one length.

    `cut` are the tokens lost at max_length; `learnt` answers bear a loss; `mismatch` says that FastChat's count went
    wrong, so that all is masked.
    """

    input_ids: Ids
    labels: Ids
    cut: int
    learnt: int
    mismatch: bool = False


def mask_answers(chat: Chat, turns: Sequence[Turn], max_length: int, loss_on: LossOn = "answers") -> Masked:
    """Ids of the rendered turns, with the loss on every answer, on the last one, or on all that something predicts.

    Raises BadRecord for turns that the template has no place for.
    """
    parts = chat.render(turns, last_only=loss_on == "last_answer")
    encoded = chat.encode([part.text for part in parts])
    ids = np.concatenate(encoded)
    if loss_on == "all":
        labels = ids.copy()
        labels[:1] = IGNORED
    else:
        labels = np.concatenate(
            [
                part_ids if part.is_answer else np.full_like(part_ids, IGNORED)
                for part, part_ids in zip(parts, encoded, strict=True)
            ]
        )
    starts = np.cumsum([0, *map(len, encoded[:-1])])
    learnt = sum(part.is_answer for part, start in zip(parts, starts, strict=True) if start < max_length)
    return Masked(ids[:max_length], labels[:max_length], max(0, len(ids) - max_length), learnt)


def fastchat_mask(tokenizer: Tokenizer, turns: Sequence[Turn], max_length: int) -> Masked:
    """Ids and labels equal to `fastchat.train.train.preprocess` of fschat 0.2.36, without its padding.

    It counts the tokens of every turn again, apart from the others, and masks the whole sample where the sums disagree.
    (Should they disagree so far that the count passes max_length while the sample is shorter, FastChat would train on
    its padding; there being none here, that is left out.)
    Raises UnusableChunk where FastChat stops with an error.
    """
    if tokenizer.legacy is None:
        raise TokenizerRefused("FastChat's way of counting is for Llama tokenizers alone: set mode to lossless")
    turns = _fastchat_turns(turns)
    answered = len(turns) > 0 and len(turns) % 2 == 0
    if answered and counts_come_out(tokenizer) and all(_is_plain(tokenizer, turn) for turn in turns):
        sample = mask_answers(chat_of(tokenizer, "vicuna"), turns, max_length)
        if tokenizer.unk_id not in sample.input_ids:
            return sample
    return _count_again(tokenizer, "".join(part.text for part in render(turns)), max_length)


@lru_cache(maxsize=1)
def counts_come_out(tokenizer: Tokenizer) -> bool:
    """Whether FastChat's counts are right on rounds in which nothing is odd, so that they need not be made.

    That hangs on the tokenizer: outside legacy mode, FastChat takes "USER:" to be one token shorter behind a `</s>`.
    """
    turns = [Turn("human", "a"), Turn("gpt", "a")] * 2
    counted = _count_again(tokenizer, "".join(part.text for part in render(turns)), 10_000)
    masked = mask_answers(chat_of(tokenizer, "vicuna"), turns, 10_000)
    return not counted.mismatch and np.array_equal(counted.labels, masked.labels)


def _is_plain(tokenizer: Tokenizer, turn: Turn) -> bool:
    """Whether a turn has nothing that FastChat could take for the template's own text."""
    return ASSISTANT not in turn.text and tokenizer.stands_alone(turn.text)


def _fastchat_turns(turns: Sequence[Turn]) -> Sequence[Turn]:
    """The turns that FastChat takes: a first one that is not the human's is passed over."""
    known = ("human", "gpt")
    unknown = next((turn.speaker for turn in turns if turn.speaker not in known), None)
    if unknown is not None:
        raise UnusableChunk("speaker_unknown", f"the speaker {unknown!r} is neither human nor gpt")
    turns = turns[1:] if turns[0].speaker != "human" else turns
    for number, turn in enumerate(turns):
        if turn.speaker != known[number % 2]:
            raise UnusableChunk("roles_do_not_alternate", f"turn {number + 1} is {turn.speaker}'s")
    return turns


def _count_again(tokenizer: Tokenizer, prompt: str, max_length: int) -> Masked:
    """`fastchat_mask` of a rendered conversation, step by step as FastChat does it."""
    whole = tokenizer.encode(prompt)
    ids = whole[:max_length]
    labels = ids.copy()
    # FastChat pads with the unknown token, so one in the text counts as padding.
    total = int(np.count_nonzero(ids != tokenizer.unk_id))
    at, added = 1, tokenizer.added()
    labels[:at] = IGNORED
    for number, turn in enumerate(prompt.split(END)):
        if turn == "":
            break
        halves = turn.split(ANSWER_MARK)
        shift = number != 0 and not tokenizer.legacy
        turn_length = added + tokenizer.count(turn)
        if len(halves) != 2:
            break
        instruction = added + tokenizer.count(halves[0] + ANSWER_MARK) - 2 - shift
        labels[at : at + instruction] = IGNORED
        at += turn_length - shift
    labels[at:] = IGNORED
    mismatch = at < max_length and at != total
    if mismatch:
        labels[:] = IGNORED
    return Masked(ids, labels, len(whole) - len(ids), answers_learnt(labels), mismatch)


def answers_learnt(labels: Ids) -> int:
    """How many stretches of labels bear a loss."""
    bears = labels != IGNORED
    return int(np.count_nonzero(bears[1:] & ~bears[:-1])) + bool(len(bears) and bears[0])
