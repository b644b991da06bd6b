"""Templates with tokenizers: the ids of transformers, and masks that an oracle of characters agrees with."""

import numpy as np
import pytest
from chat_oracle import ADDED, KINDS, TEMPLATES, Ends, chats, kind_folder, written
from slow_llama import SlowLlama
from transformers import AutoTokenizer

from amberline.data.conversations import BadRecord, Turn
from amberline.templates.base import ROLES
from amberline.text.chats import chat_of
from amberline.text.masks import IGNORED, mask_answers
from amberline.text.preferences import encode_prompt_and_responses
from amberline.text.tokenizers import load_tokenizer

SPEAKERS = {role: speaker for speaker, role in ROLES.items()}
WHOLE = 10**9  # tokens


class Published:
    """What transformers makes of chats and texts: of the Llama kinds with the ids of its slow tokenizer, of 4.57."""

    def __init__(self, folder, kind):
        self._auto = AutoTokenizer.from_pretrained(folder)
        self._slow = None
        if "llama" in kind and kind != "llama3":
            added = {text: self._auto.convert_tokens_to_ids(text) for text in ADDED}
            self._slow = SlowLlama(folder / "tokenizer.model", kind == "llama, legacy", added=added)

    def chat(self, messages, jinja, **more):
        if self._slow is None:
            return self._auto.apply_chat_template(messages, chat_template=jinja, return_dict=True, **more)["input_ids"]
        return self._slow.ids(self._auto.apply_chat_template(messages, chat_template=jinja, tokenize=False, **more))

    def apart(self, text):
        return self._slow.ids(text) if self._slow else self._auto(text, add_special_tokens=False).input_ids

    def whole(self, text):
        return self._slow(text).input_ids if self._slow else self._auto(text).input_ids

    def id(self, token):
        return self._auto.convert_tokens_to_ids(token)


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    folder = kind_folder(tmp_path_factory.mktemp("kinds") / "tokenizer", request.param)
    return request.param, load_tokenizer(folder), Published(folder, request.param), Ends(folder, request.param)


def agree(kind, template: str, count: int, seed: int) -> int:
    """How many of so many chats the template has a place for; on those, all is compared."""
    name, tokenizer, published, ends = kind
    chat = chat_of(tokenizer, template)
    jinja = chat.jinja()
    bos = chat.template.adds_bos and tokenizer.added() == 1
    rendered = 0
    for each in chats(count, seed):
        turns = [Turn(SPEAKERS[role], text) for role, text in each]
        expected = written(template, name, each)
        if expected is None:
            with pytest.raises(BadRecord):
                mask_answers(chat, turns, WHOLE)
            continue
        rendered += 1
        sample = mask_answers(chat, turns, WHOLE)
        messages = [{"role": role, "content": text} for role, text in each]
        assert sample.input_ids.tolist() == published.chat(messages, jinja), each
        learnt = ends.learnt(sample.input_ids, expected, bos)
        assert np.array_equal(sample.labels, np.where(learnt, sample.input_ids, IGNORED)), each
        assert sample.learnt == sum(answer and text != "" for text, answer in expected)
    return rendered


@pytest.mark.parametrize("template", TEMPLATES)
def test_ids_and_masks_agree(kind, template):
    assert agree(kind, template, 60, seed=1) > 10


@pytest.mark.sweep
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("template", TEMPLATES)
def test_ids_and_masks_agree_on_many(kind, template):
    assert agree(kind, template, 2000, seed=2) > 500


def without_template(kind, count: int, seed: int) -> None:
    """Prompt and response apart, as the DPO reference has them, by transformers."""
    _, tokenizer, published, _ = kind
    for each in chats(count, seed):
        (_, prompt), (_, response) = each[0], each[-1]
        ids, (answer,) = encode_prompt_and_responses(tokenizer, [Turn("human", prompt)], [response], "none")
        assert ids.tolist() == published.apart(prompt)
        assert answer.tolist() == [*published.apart(response), published.id(tokenizer.eos)]
        assert tokenizer.encode(prompt).tolist() == published.whole(prompt)


def test_without_a_template_ids_are_those_of_transformers(kind):
    without_template(kind, 60, seed=1)


@pytest.mark.sweep
@pytest.mark.timeout(7200)
def test_without_a_template_ids_are_those_of_transformers_on_many(kind):
    without_template(kind, 2000, seed=2)
