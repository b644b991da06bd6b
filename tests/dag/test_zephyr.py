"""Another model, other data, another template, by a recipe alone: Zephyr, planned as published and run small."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from zephyr_trajectory import GOLDEN, MADE, MODELS, digest, in_order

from amberline.data.tokens import open_tokens
from dag.conftest import jobs
from dag.small_zephyr import RECIPES, write_raw

pytestmark = pytest.mark.timeout(1800)

# Of the losses, by TRL on padded batches: see its module.
TOLERANCE = 1e-4
# The tokens of a row as TRL counts them, from those of ours.
READ = {
    "sft": lambda row: [row["input_ids"]],
    "dpo": lambda row: [
        row["chosen_input_ids"][: row["prompt_length"]],
        *(row[f"{which}_input_ids"][row["prompt_length"] :] for which in ("chosen", "rejected")),
    ],
}
FOLDERS = {"sft": "ultrachat-whole-????????", "dpo": "ultrafeedback-train-????????"}


@pytest.fixture(scope="module")
def made(fresh, tmp_path_factory):
    """A folder in which the small Zephyr has run to its end."""
    place = tmp_path_factory.mktemp("zephyr")
    write_raw(place / "raw")
    fresh.snakemake(
        *("--directory", str(place), "--configfile", *map(str, RECIPES)), "--cores", "2", "--quiet", "rules", "host"
    )
    return place / MADE


def test_the_published_recipe_is_planned(fresh, tmp_path):
    printed = fresh.look("-n", "--directory", str(tmp_path), "--configfile", str(RECIPES[0]), "--cores", "64")
    planned = set(jobs(printed))
    assert {"acquire ultrachat_train", "acquire_model base", "train zephyr-sft", "train zephyr"} < planned
    assert not {name for name in planned if "amber" in name or "evol" in name or "safe" in name}


@pytest.mark.parametrize("objective", MODELS)
def test_tokens_and_losses_are_those_of_trl(made, objective):
    golden = json.loads(GOLDEN.read_text())[objective]
    (folder,) = (made / "tokens").glob(FOLDERS[objective])
    tokens = open_tokens(folder)
    rows = {row["id"]: row for row in tokens}
    order = list(in_order(folder, seed=42))
    assert digest([READ[objective](rows[name]) for name in order]) == golden["tokens_sha256"]

    (metrics,) = (made / "checkpoints").glob(f"{MODELS[objective]}-{'[0-9a-f]' * 16}/metrics.jsonl")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == len(golden["losses"]) > 5
    assert losses == pytest.approx(golden["losses"], abs=TOLERANCE)


def test_the_model_stops_and_is_asked_as_it_was_trained(made):
    folder = made / "models/zephyr"
    tokenizer = AutoTokenizer.from_pretrained(folder, fix_mistral_regex=False)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello!"}], add_generation_prompt=True, tokenize=False
    )
    assert asked == "<s><|user|>\nHello!</s>\n<|assistant|>\n"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "mistral"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
