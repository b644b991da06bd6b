"""No template: the bare texts of a prompt and its response, as the DPO reference has them. Of pairs alone."""

from collections.abc import Sequence

from amberline.data.conversations import Turn
from amberline.templates.base import Part, Template, TokenizerTexts


class NoTemplate(Template):
    """Prompt and response are tokenized apart, without special tokens: see `text/preferences.py`."""

    prompting = (
        "This training saw bare prompts: no template, no beginning-of-sequence token, nothing between prompt and "
        "response. If there is a chat template in this folder, it is that of the model that training started from. Say "
        "which of the two an evaluation used; they give different figures."
    )
    chats = False

    def _parts(self, turns: Sequence[Turn], texts: TokenizerTexts, *, last_only: bool) -> list[Part]:
        raise NotImplementedError("no template has no place for turns")

    def jinja(self, texts: TokenizerTexts, opening: str) -> str:
        """See Template."""
        raise NotImplementedError("no template has no Jinja")


TEMPLATE = NoTemplate()
