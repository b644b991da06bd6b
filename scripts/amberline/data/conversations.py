"""Conversations: their JSON shape, `{"id": ..., "conversations": [{"from": ..., "value": ...}]}`, checked and typed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from amberline.core.funnel import Funnel

# Text of the Llama tokenizer's special tokens. In a turn's text, some tokenizers take it for the token itself.
SPECIAL_TOKENS = ("<s>", "</s>", "<unk>")

# Speakers that FastChat's tools know, on either side; "system" opens a few conversations.
HUMAN_SPEAKERS = frozenset({"human", "user"})
ASSISTANT_SPEAKERS = frozenset({"gpt", "chatgpt", "bing", "bard"})
SYSTEM_KEYS = frozenset({"system", "system_prompt"})
PUBLISHED_NAMES = {"user": "human", "assistant": "gpt"}
KNOWN_SPEAKERS = HUMAN_SPEAKERS | ASSISTANT_SPEAKERS | {"system", "tool"}

TURNS = {"conversations": frozenset({"from", "value"})}  # keys of a turn that are read, by the key of the turns


class BadRecord(Exception):
    """A record cannot be used: `reason` is a fixed word for counting, `detail` says what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class WrongFile(Exception):
    """A row tells that its whole file is another than it was taken for: `what` it seems to be, and the `fix`."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what, fix)
        self.what, self.fix = what, fix


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said: `speaker` as in the data ("human", "gpt", ...)."""

    speaker: str
    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in their order, under an id."""

    id: str
    turns: tuple[Turn, ...]

    def to_json(self) -> dict[str, Any]:
        """The JSON shape."""
        return {
            "id": self.id,
            "conversations": list(map(turn_to_json, self.turns)),
        }


def turn_to_json(turn: Turn) -> dict[str, str]:
    """The JSON shape of a turn."""
    return {"from": turn.speaker, "value": turn.text}


def parse_conversation(value: Any, id_key: str = "id") -> Conversation:
    """A JSON value as a conversation; `id_key` is "idx" in evol-instruct. For the keys that are left out,
    see `keys_left_out`.

    Raises BadRecord with one of the reasons row_not_an_object, id_missing, id_wrong_type, conversations_missing,
    conversations_wrong_type, conversations_empty, turn_not_an_object, turn_key_missing, turn_wrong_type,
    lone_surrogate.
    """
    if not isinstance(value, dict):
        raise BadRecord("row_not_an_object", f"found {kind_of(value)}")
    if id_key not in value:
        raise BadRecord("id_missing", f"there is no {id_key!r}; keys: {_keys(value)}")
    identity = id_in(value, id_key)
    if "conversations" not in value:
        raise BadRecord("conversations_missing", f"there is no 'conversations'; keys: {_keys(value)}")
    turns = value["conversations"]
    if not isinstance(turns, list):
        raise BadRecord("conversations_wrong_type", f"'conversations' is {kind_of(turns)}, not an array")
    if not turns:
        raise BadRecord("conversations_empty", "there is no turn")
    return Conversation(identity, tuple(_turn(turn, number) for number, turn in enumerate(turns, 1)))


def id_in(row: dict[str, Any], key: str) -> str:
    """The id of a row; a whole number is taken as its digits, also where pandas made it 1.0 for others are missing.

    Raises BadRecord: id_wrong_type, lone_surrogate.
    """
    identity = row[key]
    if isinstance(identity, int | float) and not isinstance(identity, bool) and identity == identity // 1:
        identity = str(int(identity))
    if not isinstance(identity, str):
        raise BadRecord("id_wrong_type", f"{key!r} is {kind_of(identity)}, not a string")
    refuse_lone_surrogates(identity, key)
    return identity


def _turn(value: Any, number: int) -> Turn:
    if not isinstance(value, dict):
        raise BadRecord("turn_not_an_object", f"turn {number} is {kind_of(value)}")
    for key in ("from", "value"):
        if key not in value:
            raise BadRecord("turn_key_missing", f"turn {number} has no {key!r}; keys: {_keys(value)}")
        if not isinstance(value[key], str):
            raise BadRecord("turn_wrong_type", f"turn {number}: {key!r} is {kind_of(value[key])}, not a string")
        refuse_lone_surrogates(value[key], f"turn {number}: {key}")
    return Turn(value["from"], value["value"])


def refuse_lone_surrogates(text: str, where: str) -> None:
    """Raise BadRecord for half of a UTF-16 pair, which can neither be written as UTF-8 nor tokenized."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecord(
            "lone_surrogate", f"{where!r} has \\u{ord(text[error.start]):04x} at character {error.start + 1}"
        ) from None


def has_answer(conversation: Conversation) -> bool:
    """Whether an assistant's turn follows a human's, or a tool's: without, no stage can learn anything from it."""
    speakers = [turn.speaker for turn in conversation.turns]
    return any(a in HUMAN_SPEAKERS | {"tool"} and b in ASSISTANT_SPEAKERS for a, b in pairwise(speakers))


def with_published_speakers(conversation: Conversation) -> Conversation | None:
    """A conversation of exactly "user" and "assistant" as one of "human" and "gpt"; None: it has other speakers.

    Those two are the commonest names today. All other names stay, for FastChat drops some that lossless chunks keep.
    """
    if {turn.speaker for turn in conversation.turns} != PUBLISHED_NAMES.keys():
        return None
    turns = tuple(Turn(PUBLISHED_NAMES[turn.speaker], turn.text) for turn in conversation.turns)
    return Conversation(conversation.id, turns)


class Read(Protocol):
    """What of a row is read, as a format says."""

    keys: frozenset[str] | None
    turns: Mapping[str, frozenset[str]]


def keys_left_out(row: Any, read: Read) -> Iterator[tuple[str, str]]:
    """What of a row is not read, null aside: (kind, key) pairs, each once.

    Kinds: system_prompt_left_out, of a text that the row is meant to be read under; key_left_out; turn_key_left_out.
    """
    if read.keys is None:
        return
    for key in sorted(key for key in row.keys() - read.keys if row[key] is not None):
        system = key in SYSTEM_KEYS and isinstance(row[key], str) and row[key].strip()
        yield "system_prompt_left_out" if system else "key_left_out", key
    left_out: set[str] = set()
    for column, keys in read.turns.items():
        if isinstance(row.get(column), list):
            left_out |= {key for turn in row[column] for key in turn.keys() - keys if turn[key] is not None}
    yield from (("turn_key_left_out", key) for key in sorted(left_out))


class LeftOut:
    """Notes of keys that are not read, by name: of so many names, lest a file of odd ones swells the account."""

    NAMES = 50
    LONGEST = 40  # characters of a name

    def __init__(self) -> None:
        self._named: set[str] = set()

    def note(self, funnel: Funnel, kind: str, key: str) -> None:
        """Note a key of a row or of its turns."""
        # A key may hold half of a UTF-16 pair, which cannot be written.
        name = f"{kind}: {key[: self.LONGEST].encode('utf-8', 'backslashreplace').decode()}"
        if name not in self._named and len(self._named) == self.NAMES:
            name = f"{kind}: others"
        else:
            self._named.add(name)
        funnel.note(name)


def oddities(conversation: Conversation) -> Iterator[tuple[str, str]]:
    """What is unusual about a conversation that is kept all the same: (kind, detail) pairs, each kind once.

    Kinds: empty_turn, literal_special_token, nul_character, unknown_speaker.
    """
    turns = list(enumerate(conversation.turns, 1))
    empty = [number for number, turn in turns if not turn.text.strip()]
    if empty:
        yield "empty_turn", f"turns {_some(empty)}"
    literal = [number for number, turn in turns if any(token in turn.text for token in SPECIAL_TOKENS)]
    if literal:
        yield "literal_special_token", f"turns {_some(literal)}"
    nul = [number for number, turn in turns if "\0" in turn.text]
    if nul:
        yield "nul_character", f"turns {_some(nul)}"
    strange = sorted({turn.speaker for turn in conversation.turns} - KNOWN_SPEAKERS)
    if strange:
        yield "unknown_speaker", ", ".join(strange[:5])


def _some(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return ", ".join(map(str, numbers[:5])) + more


def _keys(value: dict[str, Any]) -> str:
    return ", ".join(sorted(value)[:12]) or "none"


def kind_of(value: Any) -> str:
    """The JSON type of a value, for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
