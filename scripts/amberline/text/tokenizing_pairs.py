"""Preference pairs of a file as ids and labels: a row for every pair, or one for every prompt's target."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from amberline.core.funnel import Funnel, Reject
from amberline.data.conversations import BadRecord, Turn
from amberline.data.preferences import GROUPED_FIX, prompt_turns, read_grouped
from amberline.data.streams import BadFile
from amberline.data.tokens import PAIRS, SEQUENCES
from amberline.recipe.data import PreferenceTokens
from amberline.text.chats import chat_of
from amberline.text.columns import ids_column
from amberline.text.preferences import Sequences, encode_prompt_and_responses, join
from amberline.text.tokenizers import Ids, Tokenizer, remembered_tokenizer

BATCH_PROMPTS = 1000


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with its responses; `pairs` are indices of the chosen and the rejected one.

    `text` is its key in the file: the text of its one turn, or its turns as JSON.
    """

    index: int
    text: str
    turns: tuple[Turn, ...]
    responses: list[str]
    pairs: list[tuple[int, int]]
    sft_target: str


@dataclass(slots=True)
class PromptBatch:
    """What became of some prompts."""

    rows: int  # prompts
    batch: pa.RecordBatch
    funnel: Funnel
    rejects: list[Reject]
    lengths: Counter[int] = field(default_factory=Counter)

    @property
    def rows_out(self) -> int:
        """Rows of tokens."""
        return self.lengths.total()


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file of pairs. Raises BadFile."""
    return [_prompt(path, index, text, value) for index, (text, value) in enumerate(read_grouped(path).items())]


def _prompt(path: Path, index: int, text: str, value: Any) -> Prompt:
    try:
        responses, target = value["responses"], value["sft_target"]
        pairs = [(chosen, rejected) for chosen, rejected in value["pairs"]]
        turns = prompt_turns(text, value)
        texts = [*responses, target, *(text for turn in turns for text in (turn.speaker, turn.text))]
        whole = bool(turns) and all(isinstance(each, str) for each in texts)
        if whole and all(0 <= number < len(responses) for pair in pairs for number in pair):
            return Prompt(index, text, turns, responses, pairs, target)
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    raise BadFile(path, index + 1, "the prompt's responses, pairs and sft_target are not whole", GROUPED_FIX)


def check_turns(file: Path, prompts: Sequence[Prompt], template: str) -> None:
    """Raise BadFile where a prompt has turns that there is no place for without a template."""
    odd = next((each for each in prompts if [turn.speaker for turn in each.turns] != ["human"]), None)
    if template == "none" and odd is not None:
        what = f"the prompt has {len(odd.turns)} turns, and without a template there is no place for them"
        raise BadFile(file, odd.index + 1, what, "set template to one that has, such as chatml or zephyr.")


def batches(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """The prompts in batches for the processes."""
    waiting = iter(prompts)
    while batch := list(islice(waiting, BATCH_PROMPTS)):
        yield batch


def schema_of(settings: PreferenceTokens) -> pa.Schema:
    """The rows that the settings ask for: sequences of targets, or pairs."""
    return SEQUENCES if settings.responses == "chosen" else PAIRS


def unit_of(settings: PreferenceTokens) -> str:
    """What is counted."""
    return "targets" if settings.responses == "chosen" else "pairs"


def tokenize_prompts(file: str, model: Path, settings: PreferenceTokens, prompts: Sequence[Prompt]) -> PromptBatch:
    """Ids and labels of some prompts' pairs, or of their targets. Raises TokenizerRefused.

    Rejected are rows whose text has a token written out that ends a response, at which the DPO reference stops; rows
    with an empty response, where the settings or the template have no place for one; rows whose turns the template has
    no place for; and rows of which no token is learnt, for the first of a sequence is predicted from nothing.
    """
    tokenizer = remembered_tokenizer(model)
    if settings.template != "none":
        chat_of(tokenizer, settings.template).check(last_only=True)
    work = _Work(file, tokenizer, settings, Funnel("tokenize"), [])
    of_prompt = _targets if settings.responses == "chosen" else _pairs
    names: list[str] = []
    made: list[Sequences] = []
    for prompt in prompts:
        for name, responses in of_prompt(prompt):
            sequences = work.sequences(name, prompt, responses)
            if sequences is not None:
                names.append(name)
                made.append(sequences)
    lengths = [sum(map(len, row.input_ids)) for row in made]
    columns = _target_columns(made) if settings.responses == "chosen" else _pair_columns(made)
    batch = pa.record_batch(
        [pa.array(names, pa.string()), *columns, pa.array(lengths, pa.int32())], schema=schema_of(settings)
    )
    return PromptBatch(len(prompts), batch, work.funnel, work.rejects, Counter(lengths))


def _targets(prompt: Prompt) -> Iterator[tuple[str, list[str]]]:
    """The id and the one response of a prompt's row."""
    yield f"{prompt.index}", [prompt.sft_target]


def _pairs(prompt: Prompt) -> Iterator[tuple[str, list[str]]]:
    """The id and both responses, the chosen one first, of each row of a prompt."""
    for number, (chosen, rejected) in enumerate(prompt.pairs):
        yield f"{prompt.index}-{number}", [prompt.responses[chosen], prompt.responses[rejected]]


def _target_columns(made: Sequence[Sequences]) -> list[pa.Array]:
    """What stands between the id and the length."""
    return [ids_column(rows) for rows in _column_rows(made, 0)]


def _pair_columns(made: Sequence[Sequences]) -> list[pa.Array]:
    """What stands between the id and the length."""
    prompt_lengths = pa.array([row.prompt_length for row in made], pa.int32())
    return [prompt_lengths, *(ids_column(rows) for which in (0, 1) for rows in _column_rows(made, which))]


def _column_rows(made: Sequence[Sequences], which: int) -> tuple[list[Ids], list[Ids]]:
    return [one.input_ids[which] for one in made], [one.labels[which] for one in made]


@dataclass(slots=True)
class _Work:
    file: str
    tokenizer: Tokenizer
    settings: PreferenceTokens
    funnel: Funnel
    rejects: list[Reject]

    @property
    def unit(self) -> str:
        """What is counted."""
        return unit_of(self.settings)

    def sequences(self, name: str, prompt: Prompt, responses: list[str]) -> Sequences | None:
        """Encode a prompt with one response or with both of a pair, and count it; None: it is rejected."""
        unit = self.unit
        self.funnel.add(unit, into=1)
        if (refusal := self._empty(responses)) is not None:
            self._reject(name, prompt, "empty_response", refusal, kept=False)
            return None
        if (end := self._end_in([*(turn.text for turn in prompt.turns), *responses])) is not None:
            self._reject(name, prompt, "end_of_sequence_in_text", f"the text has {end!r} in it", kept=False)
            return None
        try:
            ids, response_ids = encode_prompt_and_responses(
                self.tokenizer, prompt.turns, responses, self.settings.template
            )
        except BadRecord as fault:
            self._reject(name, prompt, fault.reason, fault.detail, kept=False)
            return None
        if len(ids) == 0 and min(map(len, response_ids)) == 1:
            self._reject(name, prompt, "nothing_to_learn", "the prompt and a response are empty", kept=False)
            return None
        made = join(ids, response_ids, self.settings)
        tokens = len(ids) * len(response_ids) + sum(map(len, response_ids))
        self.funnel.add(unit, out=1)
        self.funnel.add(f"tokens in {unit}", into=tokens, out=sum(map(len, made.input_ids)))
        for part, cut in (("prompt_cut", made.prompt_cut * len(responses)), ("response_cut", made.response_cut)):
            if cut:
                self.funnel.reject(f"tokens in {unit}", part, cut)
                self.funnel.note(f"{unit}: {part}")
                self._reject(name, prompt, part, f"{cut} tokens of {tokens}", kept=True)
        self.funnel.observe(f"tokens of a sequence in {unit}", int(np.max([len(row) for row in made.input_ids])))
        return made

    def _empty(self, responses: list[str]) -> str | None:
        """Why a row is refused for an empty response; None: it is not."""
        if self.settings.empty_responses == "reject" and not all(text.strip() for text in responses):
            return "a response is empty, and the settings reject those"
        if self.settings.template == "vicuna" and not all(responses):
            return "a response is empty, and the template vicuna has no answer then"
        return None

    def _end_in(self, texts: Sequence[str]) -> str | None:
        """A token that ends a response, written out in one of the texts; None: there is none."""
        ends = [self.tokenizer.eos]
        if self.settings.template != "none":
            ends.append(chat_of(self.tokenizer, self.settings.template).end)
        return next((end for end in ends for text in texts if end in text), None)

    def _reject(self, name: str, prompt: Prompt, reason: str, detail: str, *, kept: bool) -> None:
        if not kept:
            self.funnel.reject(self.unit, reason)
        record = None if kept else {key: value for key, value in asdict(prompt).items() if key != "turns"}
        self.rejects.append(Reject(self.file, prompt.index + 1, f"{self.unit} {name}", reason, detail, record, kept))
