"""Conversations as lists of messages, the form of OpenAI's chat API and of most datasets on the hub today."""

from typing import Any

from amberline.data.conversations import Conversation
from amberline.formats.base import ConversationFormat, columns_of, id_of_turns, optional_id
from amberline.formats.message_lists import READ, turns_of


class Messages(ConversationFormat):
    """`{"messages": [{"role", "content"}]}`, with an `id` or `prompt_id` or without.

    Roles become the speakers of the published data: "human", "gpt", "system", "tool".
    """

    shape = "{'messages': [{'role', 'content'}]}"
    id_key = "id"
    keys = frozenset({"id", "prompt_id", "messages"})
    turns = dict.fromkeys(("messages",), READ)

    def conversation(self, row: Any) -> Conversation:
        """See ConversationFormat."""
        columns = columns_of(row, ("messages",))
        turns = turns_of(columns["messages"], "messages")
        return Conversation(optional_id(columns, "id", "prompt_id") or id_of_turns(turns), turns)


FORMAT = Messages()
