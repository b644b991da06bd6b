"""The template is FastChat's, text for text."""

import pytest
from fastchat.conversation import get_conv_template
from generated import conversations

from amberline.data.conversations import Turn, parse_conversation
from amberline.templates.vicuna import END, render, render_round


def fastchat_prompt(turns) -> str:
    template = get_conv_template("vicuna_v1.1")
    for number, turn in enumerate(turns):
        template.append_message(template.roles[number % 2], turn.text)
    return template.get_prompt()


def test_generated_conversations_render_as_fastchats():
    for row in conversations(300):
        turns = [
            Turn(("human", "gpt")[number % 2], turn.text) for number, turn in enumerate(parse_conversation(row).turns)
        ]
        assert "".join(part.text for part in render(turns)) == fastchat_prompt(turns)


def test_answers_are_what_stands_behind_the_assistants_colon():
    parts = render([Turn("human", "q1"), Turn("gpt", "a1"), Turn("human", "q2"), Turn("gpt", "a2")])
    assert [part.text for part in parts if part.is_answer] == [f" a1{END}", f" a2{END}"]
    assert [part.text[-10:] for part in parts if not part.is_answer] == ["ASSISTANT:"] * 2


def test_a_leading_answer_is_context():
    parts = render([Turn("gpt", "a0"), Turn("human", "q1"), Turn("gpt", "a1")])
    assert [part.text for part in parts if part.is_answer] == [f" a1{END}"]
    assert parts[0].text.endswith(f"ASSISTANT: a0{END}USER: q1 ASSISTANT:")


def test_the_end_may_be_another_token():
    assert render_round(Turn("human", "q"), Turn("gpt", "a"), "<|endoftext|>") == "USER: q ASSISTANT: a<|endoftext|>"


@pytest.mark.parametrize("turns", [[Turn("human", "")], [Turn("human", "q"), Turn("gpt", "")]])
def test_an_empty_turn_has_nothing_behind_its_colon(turns):
    (part,) = render(turns)
    assert part.text.endswith(":")
    assert not part.is_answer
