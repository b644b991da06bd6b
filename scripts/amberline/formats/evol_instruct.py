"""WizardLM evol-instruct V2: conversations of one round."""

from typing import Any

from amberline.data.conversations import TURNS, Conversation, parse_conversation
from amberline.formats.base import ConversationFormat, TooManyRows


class EvolInstruct(ConversationFormat):
    """`{"idx", "conversations": [{"from", "value"}]}`."""

    shape = "{'idx', 'conversations': [{'from', 'value'}]}"
    id_key = "idx"
    keys = frozenset({"idx", "conversations"})
    turns = TURNS
    # A mirror has 286,000 rows: two revisions of the 143,000 glued together.
    too_many = TooManyRows(
        250_000,
        "not evol-instruct V2 (143,000), but probably the mirror in which two revisions are glued together. "
        "Use WizardLMTeam/WizardLM_evol_instruct_V2_196k.",
    )

    def conversation(self, row: Any) -> Conversation:
        """See ConversationFormat."""
        return parse_conversation(row, "idx")


FORMAT = EvolInstruct()
