"""A template with a tokenizer: the tokens of turns, which of them are answers, and what an exported model needs."""

import re
from collections.abc import Sequence
from functools import lru_cache

from amberline.data.conversations import BadRecord, Turn
from amberline.templates.base import Part, TemplateRefused, TokenizerTexts
from amberline.templates.registry import load_template
from amberline.text.tokenizers import TRICKY_TEXTS, Ids, Tokenizer, TokenizerRefused

SOME_TURNS = (Turn("human", "a"), Turn("gpt", "a"))


class Chat:
    """A template that has a place for turns, with a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, template: str) -> None:
        """Raises TokenizerRefused if the template needs tokens that the tokenizer lacks."""
        self.tokenizer, self.name = tokenizer, template
        self.template = load_template(template)
        self.texts = TokenizerTexts(tokenizer.eos, tokenizer.own_template, tokenizer.named, tokenizer.special_texts())
        self._special = re.compile("|".join(map(re.escape, sorted(self.texts.added_tokens))) or "(?!)")
        for text in self.template.tokens:
            if len(tokenizer.encode_apart(text)) != 1 or text not in self.texts.added_tokens:
                raise TokenizerRefused(
                    f"the template {template} needs {text!r} as one token, and the tokenizer has no such token. Fix: "
                    "choose a template that needs none of its own (zephyr, vicuna), or add the token to a copy of the "
                    "model's folder (add_tokens and resize_token_embeddings of transformers)"
                )
        try:
            self.end = self.template.end(self.texts)
        except TemplateRefused as refusal:
            raise TokenizerRefused(str(refusal)) from None

    @property
    def end_ids(self) -> list[int]:
        """Ids at which a model has to stop: the end of a turn first, the end of sequence too where it is another."""
        *_, end = self.tokenizer.encode_apart(self.end).tolist()
        return list(dict.fromkeys([end, self.tokenizer.eos_id]))

    def has_special_text(self, text: str) -> bool:
        """Whether the tokenizer reads special tokens from a text, in which somebody wrote them out."""
        return self._special.search(text) is not None

    def check(self, *, last_only: bool) -> None:
        """Raise TokenizerRefused if the template cannot show which text is an answer."""
        try:
            self.template.check(self.texts, last_only=last_only)
        except TemplateRefused as refusal:
            raise TokenizerRefused(str(refusal)) from None

    def render(self, turns: Sequence[Turn], *, last_only: bool = False) -> list[Part]:
        """See Template.render. Raises BadRecord."""
        for number, turn in enumerate(turns, 1):
            if turn.speaker not in self.template.speakers or (
                turn.speaker == "system" and number > 1 and self.template.system_only_first
            ):
                raise BadRecord(
                    "role_unknown_to_template",
                    f"turn {number} is of {turn.speaker!r}, for which the template {self.name} has no place there",
                )
        return self.template.render(turns, self.texts, last_only=last_only)

    def encode(self, parts: Sequence[str]) -> list[Ids]:
        """The ids of rendered parts; a token that reaches into a part belongs to it."""
        return self.tokenizer.encode_parts(parts, with_bos=self.template.adds_bos)

    def count(self, turns: Sequence[Turn]) -> int:
        """How many tokens a chat is. Raises BadRecord."""
        text = "".join(part.text for part in self.render(turns))
        return len(self.tokenizer.encode(text) if self.template.adds_bos else self.tokenizer.encode_apart(text))

    def jinja(self) -> str:
        """The template for an exported model. Raises TokenizerRefused if no text stands for what is put in front."""
        if not self.template.adds_bos:
            return self.template.jinja(self.texts, "")
        text = "".join(part.text for part in self.render(SOME_TURNS))
        starts = (text, *TRICKY_TEXTS) if self.template.system_only_first else (text,)
        return self.template.jinja(self.texts, opening(self.tokenizer, starts))


def opening(tokenizer: Tokenizer, starts: Sequence[str]) -> str:
    """What a chat template has to write for the tokens that `encode` puts in front: a chat is encoded without them.

    A Llama tokenizer that is not of the legacy kind puts a space in front of a text, but none behind its
    beginning-of-sequence token; there it has to be written. `starts` are texts as a chat may begin. Raises
    TokenizerRefused.
    """
    for found in (tokenizer.bos, f"{tokenizer.bos} "):
        if all(tokenizer.encode_apart(found + text).tolist() == tokenizer.encode(text).tolist() for text in starts):
            return found
    raise TokenizerRefused(
        f"the tokenizer puts {tokenizer.bos!r} in front of a text, but does not read it from one: no chat template "
        "could ask a model as it was trained. Fix: take a model with another tokenizer."
    )


@lru_cache(maxsize=4)
def chat_of(tokenizer: Tokenizer, template: str) -> Chat:
    """The chat of a template's name. Raises TokenizerRefused."""
    return Chat(tokenizer, template)


def exported_chat(tokenizer: Tokenizer, template: str) -> tuple[str | None, list[int]]:
    """What a model exports that was trained on a template: its Jinja, if it is one, and the ids that end an answer.

    Raises TokenizerRefused.
    """
    if not load_template(template).chats:
        return None, [tokenizer.eos_id]
    chat = Chat(tokenizer, template)
    return chat.jinja(), chat.end_ids
