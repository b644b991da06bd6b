"""The Vicuna v1.1 template.

    SYSTEM USER: question ASSISTANT: answer</s>USER: question ASSISTANT: answer</s>

Source: `fastchat.conversation.get_conv_template("vicuna_v1.1")`, of fschat 0.2.36, separator style ADD_COLON_TWO.
"""

import json
from collections.abc import Sequence

from amberline.data.conversations import Turn
from amberline.templates.base import Part, Template, TokenizerTexts

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HUMAN, ASSISTANT = "USER", "ASSISTANT"
END = "</s>"  # the end-of-sequence token of the Llama family, which ends every answer

# One space behind system and question, none behind an answer's end; an empty turn is its name and a colon.
JINJA = """\
{%- if messages[0]['role'] == 'system' -%}
{%- set system, messages = messages[0]['content'], messages[1:] -%}
{%- else -%}
{%- set system = SYSTEM -%}
{%- endif -%}
{{- OPENING + system + ' ' -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- 'USER:' + (' ' + message['content'] + ' ' if message['content'] else '') -}}
{%- elif message['role'] == 'assistant' -%}
{{- 'ASSISTANT:' + (' ' + message['content'] + eos_token if message['content'] else '') -}}
{%- else -%}
{{- raise_exception('only system, user and assistant speak in the Vicuna template') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'ASSISTANT:' -}}
{%- endif -%}
"""


class Vicuna(Template):
    """A system text of the conversation stands in the place of the template's own."""

    prompting = (
        "Trained on the Vicuna v1.1 template, which is this folder's chat template: use `apply_chat_template`, or in "
        "FastChat `--conv-template vicuna_v1.1`. FastChat does not find the template by the model's name by itself."
    )
    speakers = frozenset({"system", "human", "gpt"})
    writes_empty_answers = False
    system_only_first = True

    def _parts(self, turns: Sequence[Turn], texts: TokenizerTexts, *, last_only: bool) -> list[Part]:  # noqa: ARG002
        return render(turns, texts.eos)

    def jinja(self, texts: TokenizerTexts, opening: str) -> str:  # noqa: ARG002
        """See Template."""
        return JINJA.replace("SYSTEM", json.dumps(SYSTEM)).replace("OPENING", json.dumps(opening))


def render(turns: Sequence[Turn], end: str = END) -> list[Part]:
    """Render turns of "human" and "gpt", perhaps behind one of "system", as parts, whose texts joined are the prompt.

    An answer's part holds what the model has to write behind "ASSISTANT:": a space, the answer, `end`. The answer of
    a first turn that is the assistant's has no question: it is rendered, but as context and not as an answer.
    As in FastChat, an empty turn is a bare "USER:" or "ASSISTANT:" without anything behind it.
    """
    parts: list[Part] = []
    context = f"{SYSTEM} "
    for number, turn in enumerate(turns):
        if turn.speaker == "system":
            context = f"{turn.text} "
        elif turn.speaker == "human":
            context += f"{HUMAN}: {turn.text} " if turn.text else f"{HUMAN}:"
        elif not turn.text:
            context += f"{ASSISTANT}:"
        elif number == 0:
            context += f"{ASSISTANT}: {turn.text}{end}"
        else:
            parts += [Part(f"{context}{ASSISTANT}:", False), Part(f" {turn.text}{end}", True)]
            context = ""
    return [*parts, Part(context, False)] if context else parts


def render_round(question: Turn, answer: Turn, end: str = END) -> str:
    """One round as it is rendered behind another. Neither turn may be empty."""
    return f"{HUMAN}: {question.text} {ASSISTANT}: {answer.text}{end}"


TEMPLATE = Vicuna()
