"""Databricks' Dolly: an instruction, perhaps with a context, and its answer; rows have no id.

A format in one file: `test_new_format.py` puts it among the others.
"""

from typing import Any

from amberline.data.conversations import Conversation, Turn
from amberline.formats.base import ConversationFormat, columns_of, id_of_texts, text_of

COLUMNS = ("instruction", "context", "response")


class Dolly(ConversationFormat):
    """`{"instruction", "context", "response", "category"}`."""

    shape = "{'instruction', 'context', 'response'}"
    keys = frozenset({*COLUMNS, "category"})

    def conversation(self, row: Any) -> Conversation:
        """See ConversationFormat."""
        columns = columns_of(row, COLUMNS)
        instruction, context, answer = (text_of(columns, column) for column in COLUMNS)
        question = f"{context}\n\n{instruction}" if context else instruction
        return Conversation(id_of_texts(question, answer), (Turn("human", question), Turn("gpt", answer)))


FORMAT = Dolly()
