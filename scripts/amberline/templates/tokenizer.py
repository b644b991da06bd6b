"""The tokenizer's own chat template: the Jinja that its folder holds, rendered by transformers.

Which text is an answer the template says itself where it has `{% generation %}` blocks. Elsewhere it is shown for every
conversation: with the generation prompt, the text until a turn has to begin the text with that turn, and that has to
begin the text of the whole.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from amberline.data.conversations import BadRecord, Turn
from amberline.templates.base import ROLES, Part, Template, TemplateRefused, Words

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")  # as transformers finds it
# Short rounds to see how the template writes turns; no text is part of another.
ROUNDS = (Turn("human", "zebra"), Turn("gpt", "quail"), Turn("human", "tapir"), Turn("gpt", "moose"))
OTHERS = "Fix: choose another template, such as chatml or zephyr"

Span = tuple[int, int]  # first character and the one behind the last


class OwnTemplate(Template):
    """Whatever the tokenizer's template writes is all that the model reads: nothing is put in front of it."""

    prompting = (
        "Trained on the chat template of the model that its line began with, which is this folder's chat template: use "
        "`apply_chat_template`."
    )
    speakers = frozenset(ROLES)  # the template itself refuses those that it does not know, or leaves out what they say
    with_opening = False

    def check(self, words: Words, *, last_only: bool) -> None:
        """See Template: its text has to be the same on every day, and answers and their ends have to be seen."""
        template = self._template(words)
        if "strftime_now" in template:
            raise TemplateRefused(
                "the tokenizer's chat template writes the date of today (strftime_now), so the same data would become "
                "other tokens tomorrow. Fix: write a fixed date in its place, in a copy of the model's folder"
            )
        try:
            self.end(words)
            self.render(ROUNDS, words, last_only=last_only)
        except BadRecord as fault:
            fix = "" if last_only else ", or set loss_on to last_answer if the last answer alone can be learnt"
            raise TemplateRefused(
                f"the tokenizer's chat template does not show which text is an answer: {fault.detail}. {OTHERS}{fix}"
            ) from None

    def end(self, words: Words) -> str:
        """See Template: the text behind an answer until its first special token, as in a short chat."""
        blocks = self._has_blocks(words)
        try:
            text, spans = self._rendered(ROUNDS[:2], words, spans=blocks)
        except BadRecord as fault:
            raise TemplateRefused(
                f"the tokenizer's chat template refuses a short chat: {fault.detail}. {OTHERS}"
            ) from None
        answer = ROUNDS[1].text
        if answer not in text:
            raise TemplateRefused(f"the tokenizer's chat template leaves out what the assistant says. {OTHERS}")
        behind = text[text.index(answer) + len(answer) :]
        special = [(behind.index(token) + len(token), -len(token)) for token in words.special if token in behind]
        if not special:
            raise TemplateRefused(
                f"the tokenizer's chat template ends an answer with {behind!r}, in which there is no special token: a "
                f"model could not learn to stop. {OTHERS}"
            )
        end = behind[: min(special)[0]]
        if spans and spans[-1][1] < text.index(answer) + len(answer + end):
            raise TemplateRefused(
                f"the generation block of the tokenizer's chat template ends before {end!r}, which ends an answer: a "
                "model could not learn to stop. Fix: put it into the block, in a copy of the model's folder"
            )
        return end

    def jinja(self, words: Words, opening: str) -> str:  # noqa: ARG002
        """See Template."""
        return self._template(words)

    def _parts(self, turns: Sequence[Turn], words: Words, *, last_only: bool) -> list[Part]:
        text, spans = self._shown(turns, words, last_only=last_only)
        found = 0
        for number, turn in enumerate(turns, 1):
            found = text.find(turn.text.strip(), found)
            if found < 0:
                raise BadRecord("turn_left_out_by_template", f"the text of turn {number} is not in what it writes")
        cuts = [0, *(cut for span in spans for cut in span), len(text)]
        parts = [Part(text[start:end], number % 2 == 1) for number, (start, end) in enumerate(pairwise(cuts))]
        return [part for part in parts if part.text]

    def _shown(self, turns: Sequence[Turn], words: Words, *, last_only: bool) -> tuple[str, list[Span]]:
        """The text, and where its answers lie. Raises BadRecord."""
        blocks = self._has_blocks(words)
        text, spans = self._rendered(turns, words, spans=blocks)
        answers = [number for number, turn in enumerate(turns) if turn.speaker == "gpt"]
        if blocks and len(spans) != len(answers):
            fault = f"{len(spans)} generation blocks for {len(answers)} answers"
            raise BadRecord("answer_not_shown_by_template", fault)
        wanted = list(enumerate(answers))[-1 if last_only else 0 :]
        return text, [
            spans[number] if blocks else self._span(turns[: turn + 1], text, words) for number, turn in wanted if turn
        ]

    def _span(self, turns: Sequence[Turn], text: str, words: Words) -> Span:
        """Where the last of some turns lies in the text of the whole, without what stands behind its end."""
        before, _ = self._rendered(turns[:-1], words, prompt=True)
        until, _ = self._rendered(turns, words)
        for begun, begins, when in ((until, before, "as the prompt for"), (text, until, "until")):
            if not begun.startswith(begins):
                fault = (
                    f"{when} turn {len(turns)} it writes {begins[-40:]!r}, and {_there(begun, begins)} in what follows"
                )
                raise BadRecord("answer_not_shown_by_template", fault)
        ends = [until.rindex(token) + len(token) for token in words.special if token in until[len(before) :]]
        return len(before), max(ends, default=len(until))

    def _rendered(
        self, turns: Sequence[Turn], words: Words, *, prompt: bool = False, spans: bool = False
    ) -> tuple[str, list[Span]]:
        """The text of turns as transformers renders them, and its generation blocks. Raises BadRecord."""
        import jinja2
        from transformers.utils.chat_template_utils import render_jinja_template

        chat = [{"role": ROLES[turn.speaker], "content": turn.text} for turn in turns]
        render: Any = render_jinja_template
        try:
            rendered = render(
                conversations=[chat],
                chat_template=self._template(words),
                return_assistant_tokens_mask=spans,
                add_generation_prompt=prompt,
                **words.named,
            )
        except jinja2.TemplateError as error:
            raise BadRecord("refused_by_template", str(error)) from None
        (text,), blocks = rendered
        return text, blocks[0] if spans else []

    def _has_blocks(self, words: Words) -> bool:
        return GENERATION.search(self._template(words)) is not None

    def _template(self, words: Words) -> str:
        if words.own is None:
            raise TemplateRefused(
                "the tokenizer has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json). "
                f"{OTHERS}"
            )
        return words.own


def _there(text: str, other: str) -> str:
    """What a text has where another one differs from it or ends."""
    same = next((at for at, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    return repr(text[max(0, same - 20) : same + 20])


TEMPLATE = OwnTemplate()
