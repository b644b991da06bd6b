"""Preferences that say which response is preferred, as most on the hub do: texts, or lists of messages."""

from collections.abc import Sequence
from typing import Any

from amberline.data.conversations import BadRecord, Turn
from amberline.data.preferences import Preference, preference_of_turns
from amberline.formats.base import PreferenceFormat, columns_of, text_of
from amberline.formats.message_lists import READ, turns_of

Turns = tuple[Turn, ...]


class ChosenRejected(PreferenceFormat):
    """`{"prompt", "chosen", "rejected"}`.

    Where `chosen` and `rejected` are lists of messages, their last messages are the responses, and what stands before
    is the prompt. If nothing stands before, the prompt is that of the column `prompt`, a text or a list of messages.
    """

    shape = "{'prompt', 'chosen', 'rejected'}, each a text or a list of messages {'role', 'content'}"
    keys = frozenset({"id", "prompt_id", "prompt", "chosen", "rejected"})
    turns = dict.fromkeys(("prompt", "chosen", "rejected"), READ)
    selections = frozenset({"chosen"})

    def preference(self, row: Any) -> Preference:
        """See PreferenceFormat.

        Raises BadRecord: those of `columns_of`, `text_of` and `turns_of`, and prompts_differ, prompt_disagrees,
        prompt_missing, prompt_ends_with_answer, response_of_another_role.
        """
        columns = columns_of(row, ("chosen", "rejected"))
        asked = _turns(columns, "prompt") if columns.get("prompt") is not None else ()
        chosen, rejected = (_turns(columns, column, "gpt") for column in ("chosen", "rejected"))
        for column, turns in (("chosen", chosen), ("rejected", rejected)):
            if turns[-1].speaker != "gpt":
                raise BadRecord("response_of_another_role", f"the last message of {column!r} is not the assistant's")
        if chosen[:-1] != rejected[:-1]:
            raise BadRecord("prompts_differ", "'chosen' and 'rejected' differ before their last messages")
        prompt = _prompt(chosen[:-1], asked, isinstance(columns.get("prompt"), str))
        return preference_of_turns(prompt, (chosen[-1].text, rejected[-1].text), chosen=0)


def _turns(row: dict[str, Any], column: str, speaker: str = "human") -> Turns:
    """A column as turns: a text is one turn."""
    if isinstance(row[column], list):
        return turns_of(row[column], column)
    return (Turn(speaker, text_of(row, column)),)


def _prompt(before: Turns, asked: Turns, is_text: bool) -> Turns:
    """The turns before the responses, held against the column `prompt`; or that column, where there are none."""
    if not before and not asked:
        raise BadRecord("prompt_missing", "there is nothing before the responses, and no 'prompt'")
    prompt = before or asked
    if prompt[-1].speaker == "gpt":
        raise BadRecord("prompt_ends_with_answer", "the last message before the responses is the assistant's")
    if before and asked and not _agree(before, asked, is_text):
        raise BadRecord("prompt_disagrees", "'prompt' is not what stands before the responses")
    return prompt


def _agree(before: Turns, asked: Sequence[Turn], is_text: bool) -> bool:
    """Whether a prompt is the turns before the responses; a text, whether it is the first question or the last."""
    if not is_text:
        return before == tuple(asked)
    questions = [turn for turn in before if turn.speaker == "human"]
    return bool(questions) and asked[0] in (questions[0], questions[-1])


FORMAT = ChosenRejected()
