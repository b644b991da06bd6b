"""What a chat template is: how the turns of a conversation become the text that a model reads.

To add a template, write a file like `chatml.py` in this folder, and the line `TEMPLATE = …` that names it; a model of
the recipe says `template: NAME`, with the file's name. Files of this folder are read with the recipe, at every
`snakemake -n`, so torch and transformers are imported where they are used.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from amberline.data.conversations import Turn

# How transformers calls the speakers of a chat.
ROLES: Mapping[str, str] = {"system": "system", "human": "user", "gpt": "assistant", "tool": "tool"}


class TemplateRefused(Exception):
    """A template cannot be used with a tokenizer; the message says why, and the fix."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the rendered text: an answer to be learnt, or what stands around answers."""

    text: str
    is_answer: bool


@dataclass(frozen=True)
class TokenizerTexts:
    """Texts that a template takes from its tokenizer."""

    eos: str  # text of the end-of-sequence token
    chat_template: str | None = None  # its own, as Jinja
    special_tokens: Mapping[str, str] = field(default_factory=dict)  # by their names: {"bos_token": …}
    added_tokens: frozenset[str] = frozenset()  # texts of all tokens that are found in a text before it is encoded


class Template(ABC):
    """How turns become text. Speakers of turns are "system", "human", "gpt" and "tool"."""

    # For model cards: how a model that was trained on it is asked.
    prompting: str = "Trained on the chat template in this folder: use `apply_chat_template`."
    chats: bool = True  # whether it has a place for turns; `none` has not
    speakers: frozenset[str] = frozenset({"human", "gpt"})
    tokens: tuple[str, ...] = ()  # texts that must be one token each
    writes_empty_answers: bool = True  # whether an empty answer has a text, such as the end of its turn
    # A system turn is allowed as the first one alone, and the text then begins with it.
    system_only_first: bool = False
    # True: the tokenizer puts its beginning-of-sequence token in front, if it has one; False: the template writes it.
    adds_bos: bool = True

    def check(self, texts: TokenizerTexts, *, last_only: bool) -> None:  # noqa: B027, most have nothing to check
        """Raise TemplateRefused if it cannot show the answers that are learnt (all, or the last one) to a tokenizer."""

    def end(self, texts: TokenizerTexts) -> str:
        """Text of the token that ends an answer, at which a model has to stop."""
        return texts.eos

    def render(self, turns: Sequence[Turn], texts: TokenizerTexts, *, last_only: bool = False) -> list[Part]:
        """The turns as parts, whose texts joined are what the model reads; with `last_only` the last answer alone.

        An answer's part is what the model has to write: it ends with the end-of-turn token. A first turn that is the
        assistant's answers nothing: it is context. Raises BadRecord for a conversation that the template has no place
        for: role_unknown_to_template, refused_by_template, turn_left_out_by_template, answer_not_shown_by_template.
        """
        parts = self._parts(turns, texts, last_only=last_only)
        answers = [number for number, part in enumerate(parts) if part.is_answer]
        # The last part that is an answer is that of the last answer, unless the template has no text for that one.
        last = [turn.text for turn in turns if turn.speaker == "gpt"][-1:]
        keep = 1 if last and (last[0] or self.writes_empty_answers) else 0
        for number in answers[: len(answers) - keep] if last_only else ():
            parts[number] = replace(parts[number], is_answer=False)
        return parts

    @abstractmethod
    def _parts(self, turns: Sequence[Turn], texts: TokenizerTexts, *, last_only: bool) -> list[Part]:
        """See `render`. Only templates that cannot show all answers have to look at `last_only`."""

    @abstractmethod
    def jinja(self, texts: TokenizerTexts, opening: str) -> str:
        """The template as Jinja, for the exported model; `opening` is what it has to write before all else."""


TURNS = """\
{%- set openings = OPENINGS -%}
{{- OPENING -}}
{%- for message in messages -%}
{%- if message['role'] not in openings -%}
{{- raise_exception('only ' + openings | join(', ') + ' speak in this template, not ' + message['role']) -}}
{%- endif -%}
{{- openings[message['role']] + CONTENT + CLOSING -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- openings['assistant'] -}}
{%- endif -%}
"""


class TurnByTurn(Template):
    """Templates that render each turn by itself: what opens a turn of its speaker, the text, its end, what follows."""

    speakers = frozenset({"system", "human", "gpt"})
    strips: bool = False  # whether spaces around a turn's text are removed
    behind: str = ""  # what follows the end of a turn

    @abstractmethod
    def opening_of(self, speaker: str) -> str:
        """What opens a turn."""

    def _parts(self, turns: Sequence[Turn], texts: TokenizerTexts, *, last_only: bool) -> list[Part]:  # noqa: ARG002
        parts: list[Part] = []
        context, end = "", self.end(texts)
        for number, turn in enumerate(turns):
            context += self.opening_of(turn.speaker)
            text = (turn.text.strip() if self.strips else turn.text) + end
            if turn.speaker == "gpt" and number > 0:
                parts += [Part(context, False), Part(text, True)]
                context = self.behind
            else:
                context += text + self.behind
        return [*parts, Part(context, False)] if context else parts

    def jinja(self, texts: TokenizerTexts, opening: str) -> str:
        """See Template."""
        openings = {ROLES[speaker]: self.opening_of(speaker) for speaker in ROLES if speaker in self.speakers}
        return (
            TURNS.replace("OPENINGS", json.dumps(openings))
            .replace("OPENING", json.dumps(opening))
            .replace("CONTENT", "message['content']" + " | trim" * self.strips)
            .replace("CLOSING", json.dumps(self.end(texts) + self.behind))
        )
