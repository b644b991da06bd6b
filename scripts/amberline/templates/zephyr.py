"""Zephyr: a line with the role, the text, and the end-of-sequence token, of which the roles are plain text.

    <|user|>
    question</s>
    <|assistant|>
    answer</s>

Source: the chat template of alignment-handbook's zephyr-7b-beta recipes. It has no place for tools.
"""

from amberline.templates.base import ROLES, TurnByTurn


class Zephyr(TurnByTurn):
    """Works with every tokenizer: its only token is the end of sequence. A line end stands behind it."""

    behind = "\n"

    def opening_of(self, speaker: str) -> str:
        """See TurnByTurn."""
        return f"<|{ROLES[speaker]}|>\n"


TEMPLATE = Zephyr()
