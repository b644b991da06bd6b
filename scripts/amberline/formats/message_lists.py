"""Lists of messages as OpenAI's chat API has them, `[{"role", "content"}]`, as turns: for formats that hold such."""

from typing import Any

from amberline.data.conversations import BadRecord, Turn, kind_of, refuse_lone_surrogates

SPEAKERS = {
    "user": "human",
    "assistant": "gpt",
    "system": "system",
    "developer": "system",  # the later name of the same
    "tool": "tool",
    "function": "tool",  # the earlier name of the same
}
READ = frozenset({"role", "content"})  # keys of a message
# Keys by which an assistant's message calls a tool. How a call is written differs from model to model.
CALLS = ("tool_calls", "function_call")


def turns_of(messages: Any, where: str) -> tuple[Turn, ...]:
    """A list of messages as turns; `where` is the column that it stands in, for messages.

    A content that is a list of text parts is joined. Raises BadRecord: messages_wrong_type, messages_empty,
    message_not_an_object, message_key_missing, role_unknown, tool_call, content_wrong_type, content_not_text,
    lone_surrogate.
    """
    if not isinstance(messages, list):
        raise BadRecord("messages_wrong_type", f"{where!r} is {kind_of(messages)}, not an array")
    if not messages:
        raise BadRecord("messages_empty", f"{where!r} has no message")
    return tuple(_turn(message, f"{where}, message {number}") for number, message in enumerate(messages, 1))


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, dict):
        raise BadRecord("message_not_an_object", f"{where} is {kind_of(message)}")
    if missing := [key for key in ("role", "content") if key not in message]:
        raise BadRecord("message_key_missing", f"{where} has no {missing[0]!r}")
    role = message["role"]
    if not isinstance(role, str) or role not in SPEAKERS:
        raise BadRecord("role_unknown", f"{where} has the role {role!r}; known are {', '.join(SPEAKERS)}")
    if called := [key for key in CALLS if message.get(key)]:
        # A tool's answer to a call that nobody sees would be learnt from as if it came from nowhere.
        raise BadRecord("tool_call", f"{where} has {called[0]!r}: write the call into its content, as the model should")
    text = _text(message["content"], where)
    refuse_lone_surrogates(text, where)
    return Turn(SPEAKERS[role], text)


def _text(content: Any, where: str) -> str:
    """A content, which is a text or a list of text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRecord("content_wrong_type", f"{where}: 'content' is {kind_of(content)}, not a string")
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadRecord("content_not_text", f"{where}: a part of its content is no text: {str(part)[:60]}")
    return "".join(part["text"] for part in content)
