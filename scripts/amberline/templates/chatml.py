"""ChatML: every turn between `<|im_start|>` with its role and `<|im_end|>`, as Qwen and many others have it.

    <|im_start|>user
    question<|im_end|>
    <|im_start|>assistant
    answer<|im_end|>

There is no default system text.
"""

from amberline.templates.base import ROLES, TokenizerTexts, TurnByTurn


class ChatML(TurnByTurn):
    """A line end stands behind each turn's end; in conversations it is not learnt."""

    speakers = frozenset(ROLES)
    tokens = ("<|im_start|>", "<|im_end|>")
    behind = "\n"

    def end(self, texts: TokenizerTexts) -> str:  # noqa: ARG002
        """See Template."""
        return "<|im_end|>"

    def opening_of(self, speaker: str) -> str:
        """See TurnByTurn."""
        return f"<|im_start|>{ROLES[speaker]}\n"


TEMPLATE = ChatML()
