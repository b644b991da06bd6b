"""Variants: which nodes they add, what is shared, and what is refused."""

import pytest

from amberline.recipe.files import read_recipe
from amberline.recipe.variants import told
from recipe.conftest import DEMO, ROOT, recipe_with, refused


def with_variants(**variants):
    return recipe_with({"variants": {name.replace("_", "-"): overlay for name, overlay in variants.items()}}, on=DEMO)


def added(recipe) -> dict[str, list[str]]:
    return {variant.name: variant.own for variant in recipe.variants}


def beta(value: float) -> dict:
    return {"models": {"ambersafe": {"beta": value}}}


FROM_AMBERCHAT = ["amberchat", "ambersafe-sft", "ambersafe", "rewards"]


def named(nodes: list[str], variant: str) -> list[str]:
    return [f"{node}@{variant}" for node in nodes]


def test_a_beta_adds_one_model_and_shares_the_rest():
    recipe = with_variants(b3=beta(0.3))
    assert added(recipe) == {"b3": ["ambersafe@b3"]}
    assert recipe.node("ambersafe@b3").from_ == "ambersafe-sft"
    assert recipe.all_scores == recipe_with(on=DEMO).all_scores
    assert recipe.all_tokens == recipe_with(on=DEMO).all_tokens
    for evaluation in ("heldout", "rewards", "answers"):
        base = recipe_with(on=DEMO).evaluated(evaluation)
        assert recipe.evaluated(evaluation) == [*base, "ambersafe@b3"]
    assert told(recipe.variants[0]) == "variant b3 (models.ambersafe.beta: 0.3): adds ambersafe@b3"


def test_the_example_computes_preferences_in_bfloat16_beside_the_published_ones():
    recipe = recipe_with(on=read_recipe([ROOT / "examples/bf16_preferences.yaml"]))
    assert added(recipe)["bf16"] == named(["ambersafe-sft", "ambersafe", "rewards"], "bf16")
    for model in ("ambersafe-sft", "ambersafe"):
        assert recipe.training(f"{model}@bf16").precision == "bfloat16"
        assert recipe.training(model).precision == "float32"
    # The reference, too, is scored in the precision of the training.
    assert recipe.scores("ambersafe@bf16", "train").precision == "bfloat16"


def test_a_seed_at_the_start_adds_all_that_follows():
    recipe = with_variants(s1={"models": {"amberchat": {"seed": 1}}})
    assert added(recipe) == {"s1": named(FROM_AMBERCHAT, "s1")}
    assert recipe.node("ambersafe@s1").from_ == "ambersafe-sft@s1"
    assert recipe.node("amberchat@s1").from_ == "base"
    assert recipe.node("rewards@s1").reference == "ambersafe-sft@s1"
    assert recipe.evaluated("rewards@s1") == ["base", "amberchat@s1", "ambersafe-sft@s1", "ambersafe@s1"]
    assert recipe.evaluated("rewards") == ["base", "amberchat", "ambersafe-sft", "ambersafe"]


def test_a_dataset_adds_what_is_made_from_it():
    recipe = with_variants(lossless={"datasets": {"evol-mix-split": {"mode": "lossless"}}})
    nodes = ["evol-mix-split", "amberchat", "ambersafe-sft", "ambersafe", "heldout", "rewards", "chat"]
    assert added(recipe) == {"lossless": named(nodes, "lossless")}
    assert recipe.node("amberchat@lossless").on == "evol-mix-split@lossless"
    assert recipe.dataset_of("heldout@lossless") == "evol-mix-split@lossless"
    assert recipe.dataset_of("heldout") == "evol-mix-split"


def test_a_sweep_is_a_variant_for_each_combination():
    recipe = with_variants(grid={"sweep": {"models.ambersafe.beta": [0.2, 0.5], "models.amberchat.seed": [2, 3]}})
    assert added(recipe) == {
        "grid-0.2-2": named(FROM_AMBERCHAT, "grid-0.2-2"),
        "grid-0.2-3": named(FROM_AMBERCHAT, "grid-0.2-3"),
        "grid-0.5-2": ["ambersafe@grid-0.5-2"],
        "grid-0.5-3": ["ambersafe@grid-0.5-3"],
    }
    assert recipe.node("ambersafe@grid-0.5-2").from_ == "ambersafe-sft@grid-0.2-2"
    assert recipe.variants[2].same["amberchat@grid-0.5-2"] == "amberchat@grid-0.2-2"


def test_a_sweep_of_a_node_with_a_dot_in_its_name():
    chat = {"models": {"chat-1.5": {"like": "amberchat", "seed": 5}}}
    sweep = {"variants": {"grid": {"sweep": {"models.chat-1.5.learning_rate": [1e-3]}}}}
    assert added(recipe_with(chat, sweep, on=DEMO)) == {"grid-0.001": ["chat-1.5@grid-0.001"]}


# Odd ones


def test_one_on_the_base_model():
    recipe = with_variants(wide={"models": {"base": {"tiny": {"hidden_size": 192}}}})
    every = ["base", "evol-mix-split", "amberchat", "ambersafe-sft", "ambersafe", "heldout", "rewards", "chat"]
    assert sorted(added(recipe)["wide"]) == sorted(named(every, "wide"))
    assert recipe.evaluated("heldout@wide") == named(["base", "amberchat", "ambersafe-sft", "ambersafe"], "wide")


def test_one_on_a_source():
    other = {"path": "mine.jsonl.xz", "sha256": None, "bytes": None, "rows": None}
    recipe = with_variants(mine={"sources": {"pku_train": other}})
    assert sorted(added(recipe)["mine"]) == sorted(
        named(["pku_train", "safe-pairs", "ambersafe-sft", "ambersafe", "rewards", "answers"], "mine")
    )
    assert recipe.node("safe-pairs@mine").pairs.sources("train") == ["pku_train@mine"]
    assert recipe.raw("pku_train@mine") == "raw/pku_train@mine.jsonl.xz"


def test_one_on_a_source_of_which_a_mix_takes_a_part():
    other = {"path": "mine.json", "sha256": None, "bytes": None, "rows": None}
    some = {"datasets": {"evol-mix": {"take": {"sharegpt": 9}, "repeat": {"evol_instruct": 2}}}}
    recipe = recipe_with(some, {"variants": {"mine": {"sources": {"sharegpt": other}}}}, on=DEMO)
    node = recipe.node("evol-mix@mine")
    assert (node.mix, node.take) == (["sharegpt@mine", "evol_instruct"], {"sharegpt@mine": 9})
    assert [share.take for share in recipe.mix_settings("evol-mix@mine").shares] == [9, None]
    assert [share.repeat for share in recipe.mix_settings("evol-mix@mine").shares] == [1, 2]
    recipe = with_variants(less={"datasets": {"evol-mix": {"fraction": {"sharegpt": 0.5}}}})
    assert "evol-mix@less" in added(recipe)["less"] and "sharegpt@less" not in added(recipe)["less"]


def test_one_on_an_evaluation_only():
    recipe = with_variants(few={"evaluations": {"rewards": {"pairs": 8}}})
    assert added(recipe) == {"few": ["rewards@few"]}
    recipe = with_variants(more={"evaluations": {"answers": {"models": ["base"]}}})
    assert added(recipe) == {"more": []}
    assert recipe.evaluated("answers") == ["amberchat", "ambersafe", "base"]


def test_one_on_defaults():
    recipe = with_variants(half={"defaults": {"train": {"export_dtype": "bfloat16"}}})
    assert added(recipe) == {"half": named(FROM_AMBERCHAT, "half")}
    assert recipe.runs["amberchat@half"] == "amberchat", "a training is not repeated for an export"


def test_two_that_coincide_share_under_the_first_name():
    recipe = with_variants(b3=beta(0.3), again=beta(0.3))
    assert added(recipe) == {"b3": ["ambersafe@b3"], "again": []}
    assert recipe.variants[1].same == {"ambersafe@again": "ambersafe@b3"}
    assert told(recipe.variants[1]).endswith("adds no node; ambersafe@again is ambersafe@b3")


def test_one_that_equals_another_node_shares_that():
    recipe = recipe_with(
        {"models": {"mild": {"like": "ambersafe", "beta": 0.3}}, "variants": {"b3": beta(0.3)}}, on=DEMO
    )
    assert recipe.variants[0].same == {"ambersafe@b3": "mild"}


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ({"fast": {"hardware": {"default": {"nodes": 2}}}}, ["variants.fast: it changes no result"]),
        ({"same": beta(0.1)}, ["variants.same: it changes no result"]),
        ({"kept": {"models": {"ambersafe": {"checkpoints": {"keep": 9}}}}}, ["variants.kept: it changes no result"]),
        ({"other": {"results": "x", **beta(0.3)}}, ["variants.other.results: a variant cannot have its own results"]),
        ({"other": {"tracking": {}, **beta(0.3)}}, ["variants.other.tracking: a variant cannot have its own tracking"]),
        ({"other": {"cluster": {}, **beta(0.3)}}, ["variants.other.cluster"]),
        ({"other": {"environment": "gpu", **beta(0.3)}}, ["variants.other.environment"]),
        ({"gone": {"models": {"amberchat": None}}}, ["variant gone: ", "models.ambersafe-sft.from", "'amberchat'"]),
        ({"typo": {"models": {"ambersafe": {"bta": 0.3}}}}, ["variant typo: ", "did you mean models.ambersafe.beta"]),
        ({"B3": beta(0.3)}, ["variants.B3: a name has small letters"]),
        ({"b3": 3}, ["variants.b3: found 3"]),
        ({"b3": {}}, ["variants.b3: found {}"]),
        ({"grid": {"sweep": {"models.ambersafe.beta": 0.2}}}, ["variants.grid.sweep", "a list of values"]),
        ({"grid": {"sweep": {"ambersafe.beta": [0.2]}}}, ["variants.grid.sweep.ambersafe.beta", "models.NODE"]),
        (
            {"grid-0.2": beta(0.3), "grid": {"sweep": {"models.ambersafe.beta": [0.2]}}},
            ["there are two variants grid-0.2"],
        ),
    ],
)
def test_variants_that_are_refused(variants, said):
    message = refused({"variants": variants}, on=DEMO)
    assert all(part in message for part in said), message


def test_one_of_a_node_made_by_like_and_of_a_name_with_a_dot():
    recipe = recipe_with(
        {"models": {"safe-v1.1": {"like": "ambersafe", "beta": 0.2}}, "variants": {"b0.3": beta(0.3)}}, on=DEMO
    )
    assert added(recipe) == {"b0.3": ["ambersafe@b0.3"]}, "what a node says itself is first"
    recipe = recipe_with(
        {
            "models": {"safe-v1.1": {"like": "ambersafe", "beta": 0.2}},
            "variants": {"s1": {"models": {"ambersafe": {"seed": 1}}}},
        },
        on=DEMO,
    )
    assert added(recipe) == {"s1": ["ambersafe@s1", "safe-v1.1@s1"]}


def test_hardware_of_a_variant_is_that_of_its_own_nodes():
    recipe = with_variants(b3={**beta(0.3), "hardware": {"train": {"hours": 9}, "ambersafe": {"cpus_per_rank": 2}}})
    assert (recipe.hardware("train", "ambersafe@b3").hours, recipe.hardware("train", "ambersafe@b3").cpus_per_rank) == (
        9,
        2,
    )
    assert (recipe.hardware("train", "ambersafe").hours, recipe.hardware("train", "amberchat").hours) == (1, 1)


def test_a_licence_makes_no_other_node():
    recipe = with_variants(b3={**beta(0.3), "sources": {"sharegpt": {"licence": "other"}}})
    assert added(recipe) == {"b3": ["ambersafe@b3"]}
