"""A generated corpus in the shape of the published mix, for measuring data preparation.

Figures aimed at, taken from 500 real ShareGPT rows: a conversation has 7.2 turns and 6,300 bytes on average; a human
turn has 77 characters in the median and 360 on average, an answer 1,200 and 1,330; a word with the space in front of it
has 6.9 characters; of 400,000 words 14% differ. An evol-instruct row is a single round of about 2,600 bytes.

Words are entries of the tokenizer's vocabulary drawn by Zipf's law, and new compounds of them, so that the length of
tokens is that of prose and new words never end.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sentencepiece

SHORT_WORDS = {
    "a",
    "I",
    "the",
    "of",
    "to",
    "in",
    "is",
    "and",
    "for",
    "it",
    "you",
    "on",
    "be",
    "as",
    "or",
    "an",
    "if",
    "we",
}
COMPOUNDS = 0.04  # of the words
JOINTS = (" ", ", ", ". ", "\n", "\n\n", ":\n    ", " (", ") ", "  ", " \U0001f642 ", "é ")
JOINT_WEIGHTS = (0.74, 0.08, 0.07, 0.05, 0.02, 0.015, 0.01, 0.01, 0.003, 0.001, 0.001)
BATCH_WORDS = 200_000


class Prose:
    """An endless stream of words, cut to the lengths asked for."""

    def __init__(self, model: Path, seed: int) -> None:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
        pieces = [processor.id_to_piece(number) for number in range(processor.vocab_size())]
        words = [piece[1:] for piece in pieces if piece[0] == "▁" and piece[1:].isalpha()]
        # Short entries are mostly the beginnings of words.
        self._words = np.array([word for word in words if len(word) > 3 or word in SHORT_WORDS], object)
        # Entries of a BPE vocabulary stand in the order in which they were merged, the most frequent first.
        weights = 1 / np.arange(5, 5 + len(self._words))
        self._cumulated = np.cumsum(weights / weights.sum())
        self.random = np.random.default_rng(seed)
        self._text = ""
        self._at = 0

    def take(self, characters: int) -> str:
        """The next characters, from a word's start on."""
        while self._at + characters > len(self._text):
            self._text = self._text[self._at :] + self._batch()
            self._at = 0
        text = self._text[self._at : self._at + characters].strip()
        self._at += characters
        return text or "Yes."

    def _batch(self) -> str:
        words = self._draw(BATCH_WORDS)
        compounds = np.flatnonzero(self.random.random(BATCH_WORDS) < COMPOUNDS)
        numbers = self.random.integers(0, 1000, len(compounds)).astype(str).astype(object)
        words[compounds] = (
            words[compounds] + self._draw(len(compounds)) + np.where(numbers.astype(int) < 250, numbers, "")
        )
        joints = self.random.choice(
            np.array(JOINTS, object), BATCH_WORDS, p=np.array(JOINT_WEIGHTS) / sum(JOINT_WEIGHTS)
        )
        return "".join((words + joints).tolist())

    def _draw(self, count: int) -> np.ndarray:
        return self._words[np.searchsorted(self._cumulated, self.random.random(count) * self._cumulated[-1])]


def conversations(count: int, sharegpt_share: float, model: Path, seed: int) -> Iterator[dict]:
    """ShareGPT-like conversations and, for the rest, single rounds as in evol-instruct."""
    prose = Prose(model, seed)
    random = prose.random
    for number in range(count):
        if random.random() < sharegpt_share:
            turns = 2 + min(int(random.geometric(0.16)) - 1, 60)
            human, answer = (4.6, 1.5, 8000), (7.0, 0.75, 4500)
        else:
            turns = 2
            human, answer = (6.4, 0.6, 4000), (7.4, 0.5, 6000)
        lengths = [
            min(int(random.lognormal(mean, deviation)) + 2, most)
            for mean, deviation, most in (human if turn % 2 == 0 else answer for turn in range(turns))
        ]
        yield {
            "id": f"generated{number}",
            "conversations": [
                {"from": ("human", "gpt")[turn % 2], "value": prose.take(length)} for turn, length in enumerate(lengths)
            ],
        }


def figures(path: Path) -> dict[str, float]:
    """What the corpus came out as, from its first 5,000 rows."""
    with open(path, encoding="utf-8") as handle:
        handle.readline()
        rows = [json.loads(line.rstrip(",\n")) for _, line in zip(range(5000), handle, strict=False) if line[0] == "{"]
    turns = [[turn["value"] for turn in row["conversations"]] for row in rows]
    sizes = [sum(len(value.encode()) for value in values) for values in turns]
    words = " ".join(value for values in turns for value in values).split(" ")[:400_000]
    return {
        "bytes_per_conversation": round(float(np.mean(sizes)), 1),
        "turns_per_conversation": round(float(np.mean([len(values) for values in turns])), 2),
        **{f"bytes_p{percent}": float(np.percentile(sizes, percent)) for percent in (5, 25, 50, 75, 95)},
        "characters_per_word": round(sum(map(len, words)) / len(words) + 1, 2),
        "different_words_in_400k": round(len(set(words)) / len(words), 3),
    }
