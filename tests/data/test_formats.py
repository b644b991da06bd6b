"""How rows of each format are read: what they become, and why others are refused."""

from typing import Any

import pytest

from amberline.data.conversations import BadRecord, keys_left_out, turn_to_json
from amberline.data.preferences import Preference
from amberline.formats.base import id_of_texts
from amberline.formats.registry import load_format

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
OTHER = {"role": "assistant", "content": "b"}
SYSTEM = {"role": "system", "content": "s"}
MORE = [USER, ASSISTANT, {"role": "user", "content": "r"}]


def read(name: str, row: Any) -> tuple[str, list[tuple[str, str]]]:
    conversation = load_format(name).conversation(row)
    return conversation.id, [(turn.speaker, turn.text) for turn in conversation.turns]


def reason(name: str, row: Any) -> str:
    with pytest.raises(BadRecord) as refused:
        load_format(name).check(row)
    assert refused.value.detail
    return refused.value.reason


def messages(*given: Any, **more: Any) -> dict:
    return {"messages": list(given), **more}


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        (messages(USER, ASSISTANT), [("human", "q"), ("gpt", "a")]),
        (messages(SYSTEM, USER, ASSISTANT), [("system", "s"), ("human", "q"), ("gpt", "a")]),
        (messages({**SYSTEM, "role": "developer"}, USER), [("system", "s"), ("human", "q")]),
        (messages(USER, {"role": "tool", "content": "42"}, ASSISTANT), [("human", "q"), ("tool", "42"), ("gpt", "a")]),
        (messages({"role": "function", "content": "42"}), [("tool", "42")]),
        (
            messages({**USER, "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
            [("human", "ab")],
        ),
        (messages({**USER, "content": []}), [("human", "")]),
        (messages({**ASSISTANT, "tool_calls": None, "function_call": None, "name": None}), [("gpt", "a")]),
    ],
)
def test_messages_are_turns_of_the_published_names(row: dict, turns: list) -> None:
    assert read("messages", row)[1] == turns


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([USER], "row_not_an_object"),
        ({"conversations": [USER]}, "column_missing"),
        ({"messages": None}, "messages_wrong_type"),
        ({"messages": "q"}, "messages_wrong_type"),
        (messages(), "messages_empty"),
        (messages("q"), "message_not_an_object"),
        (messages({"role": "user"}), "message_key_missing"),
        (messages({"content": "q"}), "message_key_missing"),
        (messages({**USER, "role": "human"}), "role_unknown"),
        (messages({**USER, "role": ["user"]}), "role_unknown"),
        (messages({**ASSISTANT, "content": None, "tool_calls": [{"id": "1"}]}), "tool_call"),
        (messages({**ASSISTANT, "tool_calls": [{"id": "1"}]}), "tool_call"),
        (messages({**ASSISTANT, "function_call": {"name": "f"}}), "tool_call"),
        (messages({**ASSISTANT, "content": None}), "content_wrong_type"),
        (messages({**USER, "content": [{"type": "image_url", "image_url": {}}]}), "content_not_text"),
        (messages({**USER, "content": ["q"]}), "content_not_text"),
        (messages({**USER, "content": "\ud800"}), "lone_surrogate"),
        (messages(USER, id=True), "id_wrong_type"),
    ],
)
def test_messages_that_cannot_be_read(row: Any, why: str) -> None:
    assert reason("messages", row) == why


def test_ids_are_those_of_the_row_or_made_of_its_text() -> None:
    assert read("messages", messages(USER, ASSISTANT, id=7, prompt_id="p"))[0] == "7"
    assert read("messages", messages(USER, ASSISTANT, id=None, prompt_id="p"))[0] == "p"
    assert read("messages", messages(USER, ASSISTANT))[0] == id_of_texts("q", "a")
    assert read("messages", messages(USER, OTHER))[0] != id_of_texts("q", "a")
    assert read("alpaca", {"instruction": "q", "output": "a"})[0] == id_of_texts("q", "a")
    # The same texts by other speakers are another conversation.
    assert read("messages", messages(SYSTEM, USER))[0] != read("messages", messages({**USER, "content": "s"}, USER))[0]


def test_what_is_left_out_is_told_and_null_is_nothing() -> None:
    row = messages({**USER, "name": "Ann", "weight": None}, score=1, source=None, tools=[])
    assert list(keys_left_out(row, load_format("messages"))) == [
        ("key_left_out", "score"),
        ("key_left_out", "tools"),
        ("turn_key_left_out", "name"),
    ]
    named = [{**USER, "name": "Ann"}]
    pair = {"prompt": "q", "chosen": [*named, ASSISTANT], "rejected": [*named, OTHER], "margin": 2}
    assert list(keys_left_out(pair, load_format("chosen_rejected"))) == [
        ("key_left_out", "margin"),
        ("turn_key_left_out", "name"),
    ]
    with_system = keys_left_out({**row, "system": "s"}, load_format("messages"))
    assert ("system_prompt_left_out", "system") in with_system


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"input": "1 and 2"}, [("human", "q\n\n1 and 2"), ("gpt", "a")]),
        ({"input": ""}, [("human", "q"), ("gpt", "a")]),
        ({"input": None}, [("human", "q"), ("gpt", "a")]),
        ({}, [("human", "q"), ("gpt", "a")]),
        ({"system": "s"}, [("system", "s"), ("human", "q"), ("gpt", "a")]),
    ],
)
def test_alpaca(row: dict, turns: list) -> None:
    assert read("alpaca", {"instruction": "q", "output": "a", **row})[1] == turns


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"output": None}, "text_wrong_type"),
        ({"instruction": 1}, "text_wrong_type"),
        ({"input": ["x"]}, "text_wrong_type"),
        ({"output": "\ud800"}, "lone_surrogate"),
    ],
)
def test_alpaca_that_cannot_be_read(changes: dict, why: str) -> None:
    assert reason("alpaca", {"instruction": "q", "input": "", "output": "a"} | changes) == why
    assert reason("alpaca", {"instruction": "q"}) == "column_missing"


def preference(row: dict) -> Preference:
    return load_format("chosen_rejected").preference(row)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": [USER], "chosen": "a", "rejected": "b"},
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [OTHER]},
        {"prompt": "q", "chosen": [ASSISTANT], "rejected": [OTHER]},
        {"prompt": "q", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
        {"prompt": [USER], "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
        {"prompt": None, "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
        {"chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]},
    ],
)
def test_one_question_in_any_form_is_the_same_preference(row: dict) -> None:
    assert preference(row) == Preference("q", ("a", "b"), chosen=0)


@pytest.mark.parametrize(
    ("before", "asked"),
    [([SYSTEM, USER], "q"), (MORE, "q"), (MORE, "r"), (MORE, MORE), ([SYSTEM, USER], None)],
)
def test_a_longer_prompt_is_known_by_its_turns(before: list, asked: Any) -> None:
    found = preference({"prompt": asked, "chosen": [*before, ASSISTANT], "rejected": [*before, OTHER]})
    speakers = {"user": "human", "assistant": "gpt", "system": "system"}
    turns = [{"from": speakers[each["role"]], "value": each["content"]} for each in before]
    assert list(map(turn_to_json, found.turns)) == turns
    assert found.prompt.startswith('[{"from":"') and found.responses == ("a", "b")
    assert preference({"prompt": before, "chosen": "a", "rejected": "b"}) == found


def test_equal_responses_leave_the_prompt_as_it_is() -> None:
    assert preference({"chosen": [USER, ASSISTANT], "rejected": [USER, ASSISTANT]}).responses == ("a", "a")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "q", "chosen": "a"}, "column_missing"),
        ({"chosen": "a", "rejected": "b"}, "prompt_missing"),
        ({"chosen": [ASSISTANT], "rejected": [OTHER]}, "prompt_missing"),
        ({"prompt": "q", "chosen": None, "rejected": "b"}, "text_wrong_type"),
        ({"prompt": 1, "chosen": "a", "rejected": "b"}, "text_wrong_type"),
        ({"prompt": "q", "chosen": [], "rejected": []}, "messages_empty"),
        ({"prompt": "q", "chosen": [USER], "rejected": [OTHER]}, "response_of_another_role"),
        ({"prompt": "other", "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}, "prompt_disagrees"),
        ({"prompt": [SYSTEM], "chosen": [USER, ASSISTANT], "rejected": [USER, OTHER]}, "prompt_disagrees"),
        ({"chosen": [USER, ASSISTANT], "rejected": [SYSTEM, OTHER]}, "prompts_differ"),
        ({"chosen": [USER, ASSISTANT, *MORE[2:], ASSISTANT], "rejected": [USER, OTHER]}, "prompts_differ"),
        ({"chosen": [USER, ASSISTANT, ASSISTANT], "rejected": [USER, ASSISTANT, OTHER]}, "prompt_ends_with_answer"),
    ],
)
def test_preferences_that_cannot_be_read(row: dict, why: str) -> None:
    assert reason("chosen_rejected", row) == why
