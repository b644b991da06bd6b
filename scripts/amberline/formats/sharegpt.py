"""ShareGPT, the cleaned and split V3: conversations whose long ones are published in parts, with ids like "x_11"."""

import re
from typing import Any

from amberline.data.conversations import TURNS, Conversation, parse_conversation
from amberline.formats.base import ConversationFormat


class ShareGPT(ConversationFormat):
    """`{"id", "conversations": [{"from", "value"}]}`."""

    shape = "{'id', 'conversations': [{'from', 'value'}]}"
    id_key = "id"
    keys = frozenset({"id", "conversations"})
    turns = TURNS
    # ShareGPT's own ids alone, seven random characters: an own "identity_0", "identity_1" are two conversations.
    part = re.compile(r"([0-9A-Za-z]{7})_[0-9]+")

    def conversation(self, row: Any) -> Conversation:
        """See ConversationFormat."""
        return parse_conversation(row, "id")


FORMAT = ShareGPT()
