"""The tokenizer's own chat template: the Jinja that its folder holds, rendered by transformers.

Answers are what `{% generation %}` blocks hold. Without blocks, each answer is found by rendering the conversation up
to it: the text with the generation prompt has to begin the text with the answer, and that the text of the whole. A
conversation for which that is not so is rejected.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from amberline.data.conversations import BadRecord, Turn
from amberline.templates.base import ROLES, Part, Template, TemplateRefused, TokenizerTexts

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
    adds_bos = False

    def check(self, texts: TokenizerTexts, *, last_only: bool) -> None:
        """See Template: its text has to be the same on every day, and answers and their ends have to be seen."""
        template = self._template(texts)
        if "strftime_now" in template:
            raise TemplateRefused(
                "the tokenizer's chat template writes the date of today (strftime_now), so the same data would become "
                "other tokens tomorrow. Fix: write a fixed date in its place, in a copy of the model's folder"
            )
        try:
            self.end(texts)
            self.render(ROUNDS, texts, last_only=last_only)
        except BadRecord as fault:
            fix = "" if last_only else ", or set loss_on to last_answer if the last answer alone can be learnt"
            raise TemplateRefused(
                f"the tokenizer's chat template does not show which text is an answer: {fault.detail}. {OTHERS}{fix}"
            ) from None

    def end(self, texts: TokenizerTexts) -> str:
        """See Template: the text behind an answer until its first special token, as in a short chat."""
        blocks = self._has_blocks(texts)
        try:
            text, spans = self._rendered(ROUNDS[:2], texts, spans=blocks)
        except BadRecord as fault:
            raise TemplateRefused(
                f"the tokenizer's chat template refuses a short chat: {fault.detail}. {OTHERS}"
            ) from None
        answer = ROUNDS[1].text
        if answer not in text:
            raise TemplateRefused(f"the tokenizer's chat template leaves out what the assistant says. {OTHERS}")
        behind = text[text.index(answer) + len(answer) :]
        special = [(behind.index(token) + len(token), -len(token)) for token in texts.added_tokens if token in behind]
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

    def jinja(self, texts: TokenizerTexts, opening: str) -> str:  # noqa: ARG002
        """See Template."""
        return self._template(texts)

    def _parts(self, turns: Sequence[Turn], texts: TokenizerTexts, *, last_only: bool) -> list[Part]:
        text, spans = self._shown(turns, texts, last_only=last_only)
        found = 0
        for number, turn in enumerate(turns, 1):
            of_turn = turn.text.strip()
            found = text.find(of_turn, found)
            if found < 0:
                raise BadRecord("turn_left_out_by_template", f"the text of turn {number} is not in what it writes")
            found += len(of_turn)
        cuts = [0, *(cut for span in spans for cut in span), len(text)]
        parts = [Part(text[start:end], number % 2 == 1) for number, (start, end) in enumerate(pairwise(cuts))]
        if not text:
            raise BadRecord("turn_left_out_by_template", "it writes nothing for these turns")
        return [part for part in parts if part.text]

    def _shown(self, turns: Sequence[Turn], texts: TokenizerTexts, *, last_only: bool) -> tuple[str, list[Span]]:
        """The text, and where its answers lie. Raises BadRecord."""
        blocks = self._has_blocks(texts)
        text, spans = self._rendered(turns, texts, spans=blocks)
        answers = [number for number, turn in enumerate(turns) if turn.speaker == "gpt"]
        if blocks and len(spans) != len(answers):
            fault = f"{len(spans)} generation blocks for {len(answers)} answers"
            raise BadRecord("answer_not_shown_by_template", fault)
        wanted = list(enumerate(answers))[-1 if last_only else 0 :]
        if blocks:
            return text, [spans[number] for number, turn in wanted if turn]
        end = self.end(texts)
        return text, [self._span(turns[: turn + 1], text, texts, end) for _, turn in wanted if turn]

    def _span(self, turns: Sequence[Turn], text: str, texts: TokenizerTexts, end: str) -> Span:
        """Where the last of some turns lies in the text of the whole, with the end of its turn and nothing behind."""
        before, _ = self._rendered(turns[:-1], texts, prompt=True)
        until, _ = self._rendered(turns, texts)
        for begun, begins, when in ((until, before, "as the prompt for"), (text, until, "until")):
            if not begun.startswith(begins):
                fault = (
                    f"{when} turn {len(turns)} it writes {begins[-40:]!r}, and {_there(begun, begins)} in what follows"
                )
                raise BadRecord("answer_not_shown_by_template", fault)
        answer = turns[-1].text.strip()
        behind = max(until.find(answer, len(before)), len(before)) + len(answer)
        found = until.find(end, behind)
        if found < 0:
            fault = f"behind turn {len(turns)} it writes {until[behind:][:40]!r}, and not {end!r}"
            raise BadRecord("answer_not_shown_by_template", fault)
        return len(before), found + len(end)

    def _rendered(
        self, turns: Sequence[Turn], texts: TokenizerTexts, *, prompt: bool = False, spans: bool = False
    ) -> tuple[str, list[Span]]:
        """The text of turns as transformers renders them, and its generation blocks. Raises BadRecord."""
        from transformers.utils.chat_template_utils import render_jinja_template

        chat = [{"role": ROLES[turn.speaker], "content": turn.text} for turn in turns]
        render: Any = render_jinja_template
        template = self._template(texts)
        try:
            rendered = render(
                conversations=[chat],
                chat_template=template,
                return_assistant_tokens_mask=spans,
                add_generation_prompt=prompt,
                **texts.special_tokens,
            )
        except Exception as error:  # its expressions are run, and fail as any program may
            raise BadRecord("refused_by_template", str(error) or type(error).__name__) from None
        (text,), blocks = rendered
        return text, blocks[0] if spans else []

    def _has_blocks(self, texts: TokenizerTexts) -> bool:
        return GENERATION.search(self._template(texts)) is not None

    def _template(self, texts: TokenizerTexts) -> str:
        if texts.chat_template is None:
            raise TemplateRefused(
                "the tokenizer has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json). "
                f"{OTHERS}"
            )
        return texts.chat_template


def _there(text: str, other: str) -> str:
    """What a text has where another one differs from it or ends."""
    same = next((at for at, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other)))
    return repr(text[max(0, same - 20) : same + 20])


TEMPLATE = OwnTemplate()
