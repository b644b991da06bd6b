"""Preference tokenization against numbers that the DPO reference made."""

import json
from pathlib import Path

import numpy as np
import pytest

from amberline.data.conversations import Turn
from amberline.recipe.data import PreferenceTokens
from amberline.templates.vicuna import render
from amberline.text.masks import IGNORED
from amberline.text.preferences import encode_prompt_and_responses, join

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/preference_tokenization.json").read_text())
SETTINGS = PreferenceTokens(
    responses=None,
    template="none",
    max_length=GOLDEN["max_length"],
    max_prompt_length=GOLDEN["max_prompt_length"],
    truncation=GOLDEN["truncation_mode"],
    empty_responses="keep",
)


def ids(values, *, eos=False):
    return np.array(values + [GOLDEN["eos"]] * eos, np.int32)


def test_the_golden_file_has_its_sixteen_cases():
    assert len(GOLDEN["cases"]) == 16


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_pairs_are_cut_as_the_reference_cuts_them(case):
    made = join(ids(case["prompt"]), [ids(case["chosen"], eos=True), ids(case["rejected"], eos=True)], SETTINGS)
    assert made.prompt_length == len(case["prompt_input_ids"])
    assert [row.tolist() for row in made.input_ids] == [case["chosen_input_ids"], case["rejected_input_ids"]]
    assert [row.tolist() for row in made.labels] == [case["chosen_labels"], case["rejected_labels"]]


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_the_target_alone_decides_in_sft(case):
    made = join(ids(case["prompt"]), [ids(case["chosen"], eos=True)], SETTINGS)
    assert made.input_ids[0].tolist() == case["sft_input_ids"]
    assert made.labels[0].tolist() == case["sft_labels"]


def test_what_is_cut_is_counted():
    made = join(ids(list(range(3, 90))), [ids(list(range(3, 80)), eos=True), ids([3, 4], eos=True)], SETTINGS)
    assert made.prompt_cut == 87 - 48
    assert made.response_cut == 78 - 48
    assert made.input_ids[0][-1] != GOLDEN["eos"]


def test_keep_end_keeps_the_end_of_the_prompt():
    settings = SETTINGS.model_copy(update={"truncation": "keep_end"})
    made = join(ids(list(range(100, 200))), [ids([3], eos=True)], settings)
    assert made.input_ids[0][:48].tolist() == list(range(152, 200))


def test_without_template_prompt_and_response_stand_apart(legacy):
    prompt, (response,) = encode_prompt_and_responses(legacy, [Turn("human", "Is it safe?")], ["Yes."], "none")
    assert prompt.tolist() == legacy.encode("Is it safe?").tolist()[1:]
    assert response.tolist() == [*legacy.encode("Yes.").tolist()[1:], legacy.eos_id]


@pytest.mark.parametrize("prompt", ["Is it safe?", "trailing space ", "", "two\nlines "])
def test_with_the_chat_template_the_whole_is_tokenized_as_one(legacy, prompt):
    ids_, (yes, no) = encode_prompt_and_responses(legacy, [Turn("human", prompt)], ["Yes.", " No"], "vicuna")
    for answer, response in (("Yes.", yes), (" No", no)):
        text = "".join(part.text for part in render([Turn("human", prompt), Turn("gpt", answer)]))
        assert [*ids_, *response] == legacy.encode(text).tolist()
        assert response[-1] == legacy.eos_id
    assert IGNORED not in ids_
