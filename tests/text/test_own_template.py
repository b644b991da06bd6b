"""The tokenizer's own template is shown to hold answers and their ends, or refused with the text that tells why."""

import json
from pathlib import Path

import pytest
from chat_oracle import kind_folder
from test_masks import learnt

from amberline.data.conversations import BadRecord, Turn
from amberline.text.chats import Chat, exported_chat
from amberline.text.masks import mask_answers
from amberline.text.tokenizers import TokenizerRefused, load_tokenizer

HEADER = "'<|im_start|>' + message['role'] + '\\n' + "
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
ROUNDS = [Turn("human", "q1"), Turn("gpt", "<think>hm</think>a1"), Turn("human", "q2"), Turn("gpt", "a2")]


def each(message: str, prompt: str = PROMPT) -> str:
    return "{% for message in messages %}" + message + "{% endfor %}" + prompt


CHATML = each("{{ " + HEADER + "message['content'] + '<|im_end|>\\n' }}")
# Reasoning is left out of all answers but the last one, as Qwen 3 has it.
FORGETFUL = each(
    "{% set text = message['content'] if loop.last else message['content'].split('</think>')[-1] %}"
    "{% set text = '<think></think>' + text if loop.last and message['role'] == 'assistant' else text %}"
    "{{ " + HEADER + "text + '<|im_end|>\\n' }}"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return kind_folder(tmp_path / "model", "olmo")


def chat(folder: Path, template: str | None) -> Chat:
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) | {"chat_template": template}
    file.write_text(json.dumps(config))
    return Chat(load_tokenizer(folder), "tokenizer")


def test_the_end_of_a_turn_is_found_and_exported(folder):
    found = chat(folder, CHATML)
    assert found.end == "<|im_end|>"
    tokenizer = load_tokenizer(folder)
    ids = [tokenizer.encode(text).tolist()[0] for text in ("<|im_end|>", "<|endoftext|>")]
    assert exported_chat(tokenizer, "tokenizer") == (CHATML, ids)
    assert exported_chat(tokenizer, "none") == (None, ids[1:])
    found.check(last_only=False)


def test_a_template_in_a_file_of_its_own_comes_first_and_of_several_the_default(folder):
    assert chat(folder, [{"name": "tools", "template": "x"}, {"name": "default", "template": CHATML}]).jinja() == CHATML
    (folder / "chat_template.jinja").write_text(FORGETFUL)
    assert chat(folder, CHATML).jinja() == FORGETFUL


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "has no chat template"),
        (
            each("{{ message['content'] + '\\n' }}", ""),
            r"ends an answer with '\\n', in which there is no special token",
        ),
        (
            each(
                "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{% endgeneration %}"
                "{% else %}{{ message['content'] }}{% endif %}{{ '<|im_end|>' }}"
            ),
            "ends before '<|im_end|>'",
        ),
    ],
)
def test_one_whose_answers_do_not_end_is_refused(folder, template, why):
    with pytest.raises(TokenizerRefused) as refusal:
        chat(folder, template)
    assert why.replace("\\\\", "\\") in str(refusal.value)
    assert "Fix: " in str(refusal.value)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (CHATML + "{{ strftime_now('%d') }}", "the date of today"),
        (FORGETFUL, "until turn 2 it writes 'ssistant\\n<think></think>quail<|im_end|>"),
        (each("{{ " + HEADER + "message['content'] + '<|im_end|>\\n' }}", ""), "as the prompt for turn 2 it writes"),
    ],
)
def test_one_that_does_not_show_its_answers_is_refused(folder, template, why):
    if "prompt" in why:  # the prompt that it would need is a text of its own
        template += "{% if add_generation_prompt %}{{ '<|im_start|>model\\n' }}{% endif %}"
    with pytest.raises(TokenizerRefused) as refusal:
        chat(folder, template).check(last_only=False)
    assert why in str(refusal.value)
    assert "Fix: " in str(refusal.value)


def test_of_one_that_forgets_reasoning_the_last_answer_can_be_learnt(folder):
    found = chat(folder, FORGETFUL)
    found.check(last_only=True)
    with pytest.raises(BadRecord, match="turn_left_out_by_template"):
        mask_answers(found, ROUNDS, 1000, "last_answer")
    plain = [*ROUNDS[:1], Turn("gpt", "a1"), *ROUNDS[2:]]
    assert learnt(found.tokenizer, mask_answers(found, plain, 1000, "last_answer")) == ["<think></think>a2<|im_end|>"]
    with pytest.raises(BadRecord, match="answer_not_shown_by_template"):
        mask_answers(found, plain, 1000)


def test_what_a_template_leaves_out_or_refuses_is_told(folder):
    silent = each("{% if message['role'] != 'tool' %}{{ " + HEADER + "message['content'] + '<|im_end|>' }}{% endif %}")
    with pytest.raises(BadRecord) as fault:
        chat(folder, silent).render([ROUNDS[0], Turn("tool", "42"), Turn("gpt", "a")])
    assert (fault.value.reason, fault.value.detail) == (
        "turn_left_out_by_template",
        "the text of turn 2 is not in what it writes",
    )
    with pytest.raises(BadRecord, match="turn_left_out_by_template"):  # although another turn has its text in it
        chat(folder, silent).render([ROUNDS[0], Turn("gpt", "get(42)"), Turn("tool", "42"), Turn("gpt", "a")])
    strict = CHATML.replace(
        "{{ '<|im_start|>' +", "{{ raise_exception('no system') if message['role'] == 'system' }}{{ '<|im_start|>' +", 1
    )
    with pytest.raises(BadRecord) as fault:
        chat(folder, strict).render([Turn("system", "s"), *ROUNDS])
    assert (fault.value.reason, fault.value.detail) == ("refused_by_template", "no system")


def test_what_its_expressions_cannot_do_is_a_reject(folder):
    adding = CHATML.replace(
        "{{ '<|im_start|>' +", "{{ '' if message['content'] != 'q2' else 1 + '' }}{{ '<|im_start|>' +", 1
    )
    with pytest.raises(BadRecord) as fault:
        chat(folder, adding).render(ROUNDS)
    assert fault.value.reason == "refused_by_template"
    assert "unsupported operand" in fault.value.detail


def test_what_follows_the_end_of_a_turn_is_not_learnt_even_if_it_is_a_special_token(folder):
    twice = each("{{ " + HEADER + "message['content'] + '<|im_end|><|endoftext|>' }}")
    found = chat(folder, twice)
    assert found.end == "<|im_end|>"
    assert learnt(found.tokenizer, mask_answers(found, ROUNDS, 1000)) == [
        "<think>hm</think>a1<|im_end|>",
        "a2<|im_end|>",
    ]


def test_an_answer_without_the_end_of_a_turn_is_a_reject(folder):
    endless = each("{{ " + HEADER + "message['content'] + ('' if message['content'] == 'a2' else '<|im_end|>') }}")
    with pytest.raises(BadRecord, match="behind turn 4 it writes '', and not '<|im_end|>'".replace("|", r"\|")):
        mask_answers(chat(folder, endless), ROUNDS, 1000)


def test_turns_for_which_it_writes_nothing_are_a_reject(folder):
    silent = each("{% if message['role'] != 'tool' %}{{ " + HEADER + "message['content'] + '<|im_end|>' }}{% endif %}")
    with pytest.raises(BadRecord, match="it writes nothing for these turns"):
        mask_answers(chat(folder, silent), [Turn("tool", " ")], 1000)


def test_as_many_generation_blocks_as_answers_are_needed(folder):
    last_alone = each(
        "{% if loop.last and message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    )
    with pytest.raises(TokenizerRefused, match="1 generation blocks for 2 answers"):
        chat(folder, last_alone).check(last_only=False)
