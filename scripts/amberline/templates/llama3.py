"""Llama 3: a header with the role, an empty line, the text without spaces around it, and `<|eot_id|>`.

    <|start_header_id|>user<|end_header_id|>

    question<|eot_id|><|start_header_id|>assistant<|end_header_id|>

    answer<|eot_id|>

Source: `ChatFormat` of Meta's llama3 repository. What a tool says stands under the role `ipython`, as since Llama 3.1.
There is no default system text.
"""

from amberline.templates.base import ROLES, TokenizerTexts, TurnByTurn


class Llama3(TurnByTurn):
    """`<|begin_of_text|>` stands in front of all, where the tokenizer puts it there."""

    speakers = frozenset(ROLES)
    tokens = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    strips = True

    def end(self, texts: TokenizerTexts) -> str:  # noqa: ARG002
        """See Template."""
        return "<|eot_id|>"

    def opening_of(self, speaker: str) -> str:
        """See TurnByTurn."""
        role = "ipython" if speaker == "tool" else ROLES[speaker]
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


TEMPLATE = Llama3()
