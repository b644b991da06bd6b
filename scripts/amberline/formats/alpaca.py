"""Alpaca: an instruction, perhaps with an input, and its answer; rows have no id.

The text that Stanford Alpaca puts around them ("Below is an instruction …") is a template's matter, and left out.
"""

from typing import Any

from amberline.data.conversations import Conversation, Turn
from amberline.formats.base import ConversationFormat, columns_of, id_of_turns, optional_id, optional_text, text_of


class Alpaca(ConversationFormat):
    """`{"instruction", "input", "output"}`; `input` and `system` may be empty, null or missing."""

    shape = "{'instruction', 'input', 'output'}"
    id_key = "id"
    keys = frozenset({"id", "system", "instruction", "input", "output"})

    def conversation(self, row: Any) -> Conversation:
        """See ConversationFormat."""
        columns = columns_of(row, ("instruction", "output"))
        instruction, answer = (text_of(columns, column) for column in ("instruction", "output"))
        system, given = (optional_text(columns, column) for column in ("system", "input"))
        question = f"{instruction}\n\n{given}" if given else instruction
        opening = [Turn("system", system)] if system else []
        turns = (*opening, Turn("human", question), Turn("gpt", answer))
        return Conversation(optional_id(columns, "id") or id_of_turns(turns), turns)


FORMAT = Alpaca()
