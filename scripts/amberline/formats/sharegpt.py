"""ShareGPT, the cleaned and split V3: conversations whose long ones are published in parts, with ids like "x_11"."""

from typing import Any

from amberline.data.conversations import Conversation, parse_conversation
from amberline.formats.base import ConversationFormat


class ShareGPT(ConversationFormat):
    """`{"id", "conversations": [{"from", "value"}]}`."""

    shape = "{'id', 'conversations': [{'from', 'value'}]}"
    id_key = "id"
    in_parts = True

    def conversation(self, row: Any) -> Conversation:
        """See ConversationFormat."""
        return parse_conversation(row, "id")


FORMAT = ShareGPT()
