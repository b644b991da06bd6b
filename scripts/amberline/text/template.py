"""The Vicuna v1.1 template: how a conversation becomes the text that the model reads.

    SYSTEM USER: question ASSISTANT: answer</s>USER: question ASSISTANT: answer</s>

Source: `fastchat.conversation.get_conv_template("vicuna_v1.1")`, of fschat 0.2.36, separator style ADD_COLON_TWO.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from amberline.data.conversations import Turn

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HUMAN, ASSISTANT = "USER", "ASSISTANT"
END = "</s>"  # the end-of-sequence token of the Llama family, which ends every answer


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the rendered text: an answer to be learnt, or what stands before one."""

    text: str
    is_answer: bool


def render(turns: Sequence[Turn], end: str = END) -> list[Part]:
    """Render turns of "human" and "gpt" as parts, whose texts joined are the prompt.

    An answer's part holds what the model has to write behind "ASSISTANT:": a space, the answer, `end`. The answer of
    a first turn that is the assistant's has no question: it is rendered, but as context and not as an answer.
    As in FastChat, an empty turn is a bare "USER:" or "ASSISTANT:" without anything behind it.
    """
    parts: list[Part] = []
    context = f"{SYSTEM} "
    for number, turn in enumerate(turns):
        if turn.speaker == "human":
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
