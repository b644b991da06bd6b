"""Alpaca: an instruction, perhaps with an input, and its answer; rows have no id.

A format in one file: `test_new_format.py` puts it among the others.
"""

from typing import Any

from amberline.data.conversations import Conversation, Turn
from amberline.formats.base import ConversationFormat, columns_of, id_of_texts, text_of

COLUMNS = ("instruction", "input", "output")


class Alpaca(ConversationFormat):
    """`{"instruction", "input", "output"}`."""

    shape = "{'instruction', 'input', 'output'}"
    keys = frozenset(COLUMNS)

    def conversation(self, row: Any) -> Conversation:
        """See ConversationFormat."""
        columns = columns_of(row, COLUMNS)
        instruction, given, answer = (text_of(columns, column) for column in COLUMNS)
        question = f"{instruction}\n\n{given}" if given else instruction
        return Conversation(id_of_texts(question, answer), (Turn("human", question), Turn("gpt", answer)))


FORMAT = Alpaca()
