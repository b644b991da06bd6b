"""The recipe as a graph: nodes, edges, what nodes share, and what is refused."""

import re

import pytest

from amberline.core.settings import Kind
from amberline.recipe import paths
from amberline.recipe.check import deviations
from amberline.recipe.files import put_on_top
from amberline.recipe.graph import alternatives
from recipe.conftest import DEMO, PUBLISHED, recipe_with, refused

THIRD = {"format": "sharegpt", "path": "mine.json"}
SOURCE = dict.fromkeys(("repository", "revision", "file", "files", "bytes", "sha256", "rows", "licence"))


def source(name: str, format: str) -> dict:
    return {"sources": {name: {"format": format, "path": f"{name}.json", **SOURCE}}}


def models(**nodes) -> dict:
    return {"models": {name.replace("_", "-"): node for name, node in nodes.items()}}


# like and defaults


def test_like_copies_settings_and_own_keys_win():
    recipe = recipe_with(models(mild={"like": "ambersafe", "beta": 0.5}))
    one, other = recipe.node("ambersafe"), recipe.node("mild")
    assert (other.beta, other.from_, other.title) == (0.5, "ambersafe-sft", None)
    assert one.model_dump(exclude={"beta", "title"}) == other.model_dump(exclude={"beta", "title"})


def test_like_is_resolved_after_files_are_on_top_of_each_other():
    recipe = recipe_with(models(mild={"like": "ambersafe"}), models(ambersafe={"seed": 9}))
    assert recipe.node("mild").seed == 9


def test_like_may_chain():
    recipe = recipe_with(models(one={"like": "ambersafe", "seed": 3}, two={"like": "one", "beta": 0.5}))
    assert (recipe.node("two").seed, recipe.node("two").beta) == (3, 0.5)


def test_like_of_another_objective_copies_what_that_has():
    recipe = recipe_with(models(more={"like": "ambersafe", "train": "sft", "responses": "chosen"}))
    node = recipe.node("more")
    assert node.learning_rate == recipe.node("ambersafe").learning_rate
    assert not hasattr(node, "beta")
    assert not hasattr(node.monitors, "reward_accuracy")


def test_defaults_are_those_of_the_objective_before_those_of_the_kind():
    recipe = recipe_with({"defaults": {"train": {"epochs": 7}, "dpo": {"epochs": 8}}}, models(x={"like": "ambersafe"}))
    assert recipe.node("ambersafe").epochs == 3, "what a node says itself is first"
    values = {name: {**node} for name, node in PUBLISHED["models"].items()}
    for name in ("amberchat", "ambersafe"):
        values[name].pop("epochs")
    recipe = recipe_with(
        {"defaults": {"train": {"epochs": 7}, "dpo": {"epochs": 8}}},
        on={**PUBLISHED, "models": values},
    )
    assert (recipe.node("amberchat").epochs, recipe.node("ambersafe").epochs) == (7, 8)


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        (models(a={"like": "b"}, b={"like": "a"}), ["models.a.like", "in a circle: a → b → a"]),
        (models(a={"like": "ambersaf"}), ["models.a.like", "no node in models 'ambersaf'", "did you mean ambersafe?"]),
        (models(a={"like": "evol-mix"}), ["models.a.like", "there is no node in models 'evol-mix'"]),
        ({"defaults": {"dpoo": {}}}, ["defaults.dpoo", "did you mean dpo?"]),
        ({"defaults": {"dpo": {"bta": 1}}}, ["defaults.dpo.bta: unknown key", "did you mean defaults.dpo.beta?"]),
    ],
)
def test_like_and_defaults_that_are_refused(overlay, said):
    message = refused(overlay)
    assert all(part in message for part in said), message


# Names


@pytest.mark.parametrize("name", ["v1.5", "a_b-c", "7b"])
def test_names_that_nodes_may_have(name):
    recipe = recipe_with({"models": {name: {"like": "ambersafe", "beta": 0.5}}})
    assert paths.manifest(recipe.files(name)[0]) == f"models/{name}/manifest.json"
    assert re.fullmatch(alternatives(list(recipe.nodes.models)), name)


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        (models(Mine={"like": "ambersafe"}), ["models.Mine: a name has small letters"]),
        ({"models": {"-x": {"like": "ambersafe"}}}, ["models.-x: a name has small letters"]),
        ({"models": {"a/b": {"like": "ambersafe"}}}, ["models.a/b: a name has small letters"]),
        (models(train={"like": "ambersafe"}), ["models.train: this word has a meaning of its own"]),
        (models(report={"like": "ambersafe"}), ["models.report: this word has a meaning of its own"]),
        ({"models": {"pku_train": {"like": "ambersafe"}}}, ["models.pku_train: sources.pku_train has this name"]),
        ({"datasets": {"evol-mix-heldout": {"like": "evol-mix"}}}, ["evol-mix and evol-mix-heldout would both make"]),
        ({"datasets": {"safe-pairs-train": {"like": "evol-mix"}}}, ["data/safe-pairs-train.json; rename one"]),
        ({"datasets": {"evol-mix.json.manifest": {"like": "evol-mix"}}}, ["data/evol-mix.json.manifest.json"]),
    ],
)
def test_names_that_are_refused(overlay, said):
    message = refused(overlay)
    assert all(part in message for part in said), message


# Edges

TINY = {
    "vocabulary": 512,
    "hidden_size": 8,
    "intermediate_size": 8,
    "layers": 1,
    "heads": 1,
    "context": 4096,
    "seed": 0,
}
TINY_QWEN = {"models": {"base": {"tiny": {**TINY, "tokenizer": "qwen"}, "texts": ["sharegpt"]}}}
LOSSLESS, WHOLE = ({"datasets": {"evol-mix-split": {"mode": mode}}} for mode in ("lossless", "whole"))
FASTCHAT_HELDOUT = {"evaluations": {"heldout": {"mode": "fastchat"}}}


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        (
            {"datasets": {"evol-mix": {"mix": ["sharegpt", "evol_instruc"]}}},
            ["no source 'evol_instruc'", "did you mean evol_instruct?"],
        ),
        ({"datasets": {"evol-mix": {"mix": ["pku_train"]}}}, ["pku_train is of the format pku_saferlhf_v0", "no conv"]),
        ({"datasets": {"evol-mix": {"mix": ["sharegpt", "sharegpt"]}}}, ["a source stands in it twice"]),
        ({"datasets": {"safe-pairs": {"pairs": {"train": ["pku_train"] * 2}}}}, ["pairs.train: a source stands in it"]),
        ({"datasets": {"evol-mix": {"repeat": {"sharegpt": 10**20}}}}, ["evol-mix.repeat.sharegpt", "1000"]),
        (
            {"models": {"base": {"tiny": {**TINY, "hidden_size": 12, "heads": 4}, "texts": ["sharegpt"]}}},
            ["hidden_size (12) divided by heads (4) must be even"],
        ),
        ({"evaluations": {"heldout": {"template": "chatml"}}}, ["evaluations.heldout.mode to lossless"]),
        (
            put_on_top(WHOLE, models(amberchat={"template": "chatml"}) | FASTCHAT_HELDOUT),
            ["evaluations.heldout: FastChat's masks", "not chatml and answers"],
        ),
        (
            put_on_top(WHOLE, models(amberchat={"template": "chatml"}, b={"like": "amberchat", "template": "zephyr"})),
            ["evaluations.heldout.template: models are trained on evol-mix-split with chatml and zephyr, and all are"],
        ),
        (
            put_on_top(WHOLE, models(amberchat={"loss_on": "all"}, b={"like": "amberchat", "loss_on": "answers"})),
            ["evaluations.heldout.loss_on: models are trained on evol-mix-split with all and answers"],
        ),
        ({"datasets": {"evol-mix-split": {"chunk": "safe-pairs"}}}, ["no dataset of conversations 'safe-pairs'"]),
        ({"datasets": {"evol-mix-split": {"tokenizer": "bas"}}}, ["no model 'bas'; did you mean base?"]),
        (
            {"datasets": {"evol-mix": {"take": {"sharegtp": 9}}}},
            ["evol-mix.take: there is no source in this mix 'sharegtp'; did you mean sharegpt?"],
        ),
        (
            {"datasets": {"evol-mix": {"take": {"sharegpt": 9}, "fraction": {"sharegpt": 0.5}}}},
            ["evol-mix.fraction: sharegpt has a take, too; remove one of them"],
        ),
        ({"datasets": {"evol-mix": {"fraction": {"sharegpt": 1.5}}}}, ["evol-mix.fraction.sharegpt: found 1.5"]),
        ({"datasets": {"evol-mix": {"repeat": {"sharegpt": 0}}}}, ["evol-mix.repeat.sharegpt: found 0"]),
        ({"datasets": {"safe-pairs": {"pairs": {"train": "sharegpt"}}}}, ["holds no preferences"]),
        ({"datasets": {"safe-pairs": {"pairs": {"test": "pku_train"}}}}, ["trained on and measured on"]),
        (
            {"datasets": {"safe-pairs": {"select": "chosen"}}},
            ["safe-pairs.select: found 'chosen', which rows of pku_train (pku_saferlhf_v0) do not tell; set it to"],
        ),
        (
            {"sources": {"mine": {"path": "x.json"}}},
            ["sources.mine.format: missing; `python scripts/inspect_source.py"],
        ),
        (
            {"sources": {"sharegpt": {"files": "*.json"}}},
            ["it has both file and files: set one of them to null"],
        ),
        (
            {"sources": {"sharegpt": {"file": None, "files": "*.json"}}},
            ["bytes and sha256 are of one file: set them to null"],
        ),
        ({"sources": {"sharegpt": {"format": "sharegtp"}}}, ["there is no format 'sharegtp'; did you mean sharegpt?"]),
        (models(amberchat={"from": "bse"}), ["models.amberchat.from: there is no model 'bse'; did you mean base?"]),
        (models(amberchat={"from": "ambersafe"}), ["in a circle: amberchat → ambersafe → ambersafe-sft → amberchat"]),
        (models(amberchat={"on": "evol-mix"}), ["not cut into chunks yet; choose evol-mix-split"]),
        (
            models(amberchat={"on": "evol-mix-splt"}),
            ["there is no dataset 'evol-mix-splt'; did you mean evol-mix-split?"],
        ),
        (models(ambersafe={"on": "evol-mix-split"}), ["dpo learns from pairs, and evol-mix-split holds", "safe-pairs"]),
        (models(amberchat={"train": "dpoo"}), ["there is no objective 'dpoo'; did you mean dpo?"]),
        (models(a={"train": "sft", "tiny": {}}), ["models.a: it is tiny and train at once"]),
        (models(a={"seed": 1}), ["models.a: it does not say what it is", "pretrained, tiny, train"]),
        ({"evaluations": {"rewards": {"reference": "ambersafe-stf"}}}, ["did you mean ambersafe-sft?"]),
        ({"evaluations": {"answers": {"models": ["ambrchat"]}}}, ["no model 'ambrchat'; did you mean amberchat?"]),
        ({"evaluations": {"heldout": {"perplexity": "safe-pairs"}}}, ["no dataset of conversations 'safe-pairs'"]),
        ({"evaluations": {"rewards": {"rewards": "evol-mix"}}}, ["there is no dataset of pairs 'evol-mix'"]),
        ({"hardware": {"ambersaf": {"hours": 1}}}, ["hardware.ambersaf", "did you mean ambersafe?"]),
        (
            {"hardware": {"train": {"device": "cpu", "attention": "flash"}}},
            ["hardware.train.attention", "device: cuda"],
        ),
        (models(amberchat={"evaluation": {"examples": 5, "every_examples": 5}}), ["datasets.evol-mix.heldout is 0"]),
        (models(amberchat={"evaluation": {"examples": 5}}), ["both 0 or both positive"]),
        (models(amberchat={"template": "vicunia"}), ["models.amberchat.template", "did you mean vicuna?"]),
        (models(ambersafe={"template": "chatnl"}), ["no template 'chatnl'; did you mean chatml?"]),
        (models(amberchat={"template": "none"}), ["no place for turns; choose from chatml, llama3, tokenizer, vicuna"]),
        ({"evaluations": {"heldout": {"template": "zefyr"}}}, ["heldout.template", "did you mean zephyr?"]),
        (models(amberchat={"template": "chatml"}), ["FastChat's masks are for template: vicuna", "mode to whole, or"]),
        (
            models(amberchat={"loss_on": "all"}),
            ["loss_on: answers, not vicuna and all", "evol-mix-split.mode to whole"],
        ),
        (
            LOSSLESS | models(amberchat={"template": "chatml"}),
            ["is cut for the template vicuna. Fix: set datasets.evol-mix-split.template to chatml"],
        ),
        (TINY_QWEN, ["masks are for Llama tokenizers, and base has one of the kind qwen. Fix: set datasets.evol-mix"]),
        ({"datasets": {"evol-mix-split": {"template": "chatml"}}}, ["mode: fastchat cuts for the template vicuna"]),
        (
            WHOLE | models(amberchat={"template": "chatml"}, **{"ambersafe-sft": {"template": "tokenizer"}}),
            ["tokenizer is the chat template of base, but amberchat is trained in chatml"],
        ),
    ],
)
def test_a_wrong_edge_is_told_with_the_nearest_right_name(overlay, said):
    message = refused(overlay)
    assert all(part in message for part in said), message
    assert "nothing was started" in message


def test_pairs_for_sft_without_a_response_are_refused():
    node = {key: value for key, value in PUBLISHED["models"]["ambersafe-sft"].items() if key != "responses"}
    message = refused(on={**PUBLISHED, "models": {**PUBLISHED["models"], "ambersafe-sft": node}})
    assert "models.ambersafe-sft.responses: missing; its dataset holds pairs: say which response is learnt" in message


def test_chunks_for_another_tokenizer_are_refused():
    other = {"pretrained": "other/model", "revision": "main"}
    message = refused(models(other=other, chat={"like": "amberchat", "from": "other"}))
    assert "evol-mix-split is cut for the tokenizer of base, and chat has that of other" in message
    assert "{like: evol-mix-split, tokenizer: other}" in message


def test_a_reference_with_another_tokenizer_is_refused():
    other = {"pretrained": "other/model", "revision": "main"}
    message = refused(models(other=other), {"evaluations": {"rewards": {"reference": "other"}}})
    assert "evaluations.rewards.reference: other has the tokenizer of other" in message
    assert "choose a model that comes from base" in message


def test_chunks_too_long_for_a_stand_in_are_refused():
    message = refused({"datasets": {"evol-mix-split": {"max_length": 257}}}, on=DEMO)
    assert "datasets.evol-mix-split.max_length: found 257, more than models.base.tiny.context (256)" in message


def test_conversations_that_are_cut_twice_need_a_word_which_are_measured():
    twice = {"datasets": {"lossless": {"like": "evol-mix-split", "mode": "lossless"}}}
    message = refused(twice)
    assert "evaluations.heldout.perplexity: evol-mix is cut into chunks by evol-mix-split and by lossless" in message
    recipe = recipe_with(twice, {"evaluations": {"heldout": {"perplexity": "lossless"}}})
    assert recipe.evaluation_tokens("heldout").settings.mode == "lossless"


# What nodes share


def test_a_model_with_another_beta_shares_tokens_and_scores():
    one, two = recipe_with(), recipe_with(models(mild={"like": "ambersafe", "beta": 0.5}))
    assert two.all_tokens == one.all_tokens
    assert two.all_scores == one.all_scores
    assert two.runs["mild"] == "mild"


def test_a_model_that_is_only_exported_otherwise_shares_the_training():
    recipe = recipe_with(models(small={"like": "amberchat", "export_dtype": "bfloat16"}))
    assert recipe.runs == {
        "amberchat": "amberchat",
        "ambersafe-sft": "ambersafe-sft",
        "ambersafe": "ambersafe",
        "small": "amberchat",
    }


def test_models_that_start_from_equal_ones_share_the_training():
    recipe = recipe_with(
        models(twin={"like": "amberchat"}, late={"like": "ambersafe-sft", "from": "twin", "export_dtype": "bfloat16"})
    )
    assert recipe.runs["late"] == "ambersafe-sft"


def test_a_reference_is_scored_in_each_precision_that_is_asked_for():
    recipe = recipe_with(models(half={"like": "ambersafe", "precision": "bfloat16"}))
    found = {(each.model, each.tokens.part, each.precision) for each in recipe.all_scores.values()}
    assert found == {
        ("ambersafe-sft", part, precision) for part in ("train", "test") for precision in ("float32", "bfloat16")
    }


def test_tokens_take_the_mode_of_their_dataset_unless_told_otherwise():
    lossless = {"datasets": {"evol-mix-split": {"mode": "lossless"}}}
    assert recipe_with(lossless).tokens("amberchat").settings.mode == "lossless"
    assert recipe_with(lossless, models(amberchat={"mode": "fastchat"})).tokens("amberchat").settings.mode == "fastchat"


def test_what_is_measured_is_read_as_the_model_reads_it_that_is_trained_on_it():
    lossless = models(amberchat={"mode": "lossless", "loss_on": "all"})
    assert "Fix: set evaluations.heldout.mode to lossless" in refused(lossless)
    settings = recipe_with(lossless, {"evaluations": {"heldout": {"mode": "lossless"}}}).evaluation_tokens("heldout")
    assert (settings.settings.mode, settings.settings.loss_on) == ("lossless", "all")
    two = models(amberchat={"template": "chatml"}, b={"like": "amberchat", "template": "zephyr"})
    told = {"evaluations": {"heldout": {"template": "zephyr"}}}
    assert recipe_with(WHOLE, two, told).evaluation_tokens("heldout").settings.template == "zephyr"


def test_null_takes_back_what_a_file_below_says_of_a_source():
    shares = {"take": {"sharegpt": 5}, "repeat": {"sharegpt": 2}}
    back = {"take": {"sharegpt": None}, "fraction": {"sharegpt": 0.5}, "repeat": {"sharegpt": None}}
    share = recipe_with({"datasets": {"evol-mix": shares}}, {"datasets": {"evol-mix": back}}).mix_settings("evol-mix")
    assert share.shares[0].model_dump() == {"take": None, "fraction": 0.5, "repeat": 1}


@pytest.mark.parametrize("files", ["", "**.parquet", "a**b", "x/**/y", "../x"])
def test_patterns_that_would_leave_the_folder_or_fit_all_are_refused(files):
    assert "write paths inside the folder" in refused(
        {"sources": {"sharegpt": {"file": None, "files": files, "path": "x", "bytes": None, "sha256": None}}}
    )


def test_only_other_settings_of_tokens_make_other_tokens():
    names = set(recipe_with().all_tokens)
    assert set(recipe_with(models(ambersafe={"seed": 3, "beta": 0.2})).all_tokens) == names
    longer = set(recipe_with(models(ambersafe={"max_length": 640})).all_tokens)
    assert len(longer - names) == 2, "train and test; rewards are measured as the reference reads"
    assert len(set(recipe_with({"datasets": {"evol-mix-split": {"max_length": 1024}}}).all_tokens) - names) == 2


def test_amberchat_may_be_one_that_others_made():
    recipe = recipe_with(models(amberchat={"pretrained": "LLM360/AmberChat"}))
    assert recipe.pretrained("amberchat").model_dump() == {
        "pretrained": "LLM360/AmberChat",
        "revision": "main",
        "licence": None,
        "trust_remote_code": False,
    }
    assert recipe.trained == ["ambersafe-sft", "ambersafe"]
    assert recipe.tokens("ambersafe").tokenizer == "amberchat"
    assert recipe.evaluated("heldout") == ["base"]
    assert recipe.evaluated("rewards") == ["amberchat", "ambersafe-sft", "ambersafe"]


def test_a_split_may_have_several_sources():
    recipe = recipe_with(
        source("more", "pku_saferlhf_v0"),
        {"datasets": {"safe-pairs": {"pairs": {"train": ["pku_train", "more"]}}}},
    )
    assert recipe.sources_of("safe-pairs", "train") == ["pku_train", "more"]
    assert recipe.pairs_settings("safe-pairs", "train").formats == ["pku_saferlhf_v0"] * 2


# What a model is made from, and how it differs from the published one


def test_a_model_uses_all_that_is_upstream():
    assert recipe_with().uses("amberchat") == {
        *("amberchat", "base", "evol-mix-split", "evol-mix", "sharegpt", "evol_instruct"),
    }
    assert recipe_with().uses("ambersafe") == set(recipe_with().names) - {"heldout", "rewards", "answers"}


def test_deviations_are_those_of_the_nodes_that_are_asked_for():
    recipe = recipe_with(models(ambersafe={"beta": 0.2}, amberchat={"seed": 1, "checkpoints": {"keep": 1}}))
    assert deviations(recipe) == {
        "models.amberchat.seed": {"published": 42, "here": 1},
        "models.ambersafe.beta": {"published": 0.1, "here": 0.2},
    }
    assert deviations(recipe, among=recipe.uses("amberchat")).keys() == {"models.amberchat.seed"}
    assert not deviations(recipe_with({"results": "elsewhere", "hardware": {"default": {"nodes": 2}}}))


def test_a_title_is_no_setting_that_determines_anything():
    recipe = recipe_with(models(amberchat={"title": "Chat"}))
    assert "title" not in recipe.nodes.of(Kind.RESULT)["models"]["amberchat"]
    assert recipe.nodes.of(Kind.DESCRIPTION)["models"]["amberchat"] == {"title": "Chat"}


# Hardware


def test_hardware_is_the_default_but_for_the_work_and_the_node():
    recipe = recipe_with({"hardware": {"train": {"hours": 30}, "ambersafe": {"nodes": 2}, "rewards": {"hours": 1}}})
    assert recipe.hardware("train", "amberchat").hours == 30
    assert (recipe.hardware("train", "ambersafe").hours, recipe.hardware("train", "ambersafe").nodes) == (30, 2)
    assert (recipe.hardware("evaluate", "rewards").hours, recipe.hardware("evaluate", "heldout").hours) == (1, 4)
    assert recipe.hardware("score_reference").hours == 4


def test_one_process_has_its_share_of_a_machine():
    one = recipe_with().hardware("evaluate", "answers")
    assert (one.nodes, one.ranks_per_node, one.memory_gb) == (1, 1, 60)


def test_raw_files_keep_their_endings():
    recipe = recipe_with()
    assert recipe.raw("sharegpt") == "raw/sharegpt.json"
    assert recipe.raw("pku_train") == "raw/pku_train.jsonl.xz"
    assert paths.raw("x", "rows.JSON") == "raw/x.json"


def test_answers_are_asked_of_held_out_conversations_or_of_test_pairs():
    recipe = recipe_with({"evaluations": {"chat": {"samples": "evol-mix", "models": ["amberchat"]}}})
    assert recipe.prompts_of("answers") == "data/safe-pairs-test.json"
    assert recipe.prompts_of("chat") == "data/evol-mix-split-heldout.json"
    assert recipe.evaluation_tokens("chat") is None


# hardware


def test_only_trainings_compile():
    """One pass over the data is over before compiling pays."""
    recipe = recipe_with()
    assert recipe.hardware("train", "amberchat").compile
    assert not recipe.hardware("score_reference").compile
    assert not recipe.hardware("evaluate", "heldout").compile


def test_conversations_are_measured_as_a_model_that_is_trained_on_them():
    assert recipe_with({}).evaluation_tokens("heldout").settings == recipe_with({}).tokens("amberchat").settings
    chatml = WHOLE | models(amberchat={"template": "chatml", "loss_on": "last_answer"})
    measured = recipe_with(chatml).evaluation_tokens("heldout").settings
    assert (measured.template, measured.loss_on, measured.mode) == ("chatml", "last_answer", "lossless")
    said = recipe_with(chatml, {"evaluations": {"heldout": {"template": "zephyr", "loss_on": "all"}}})
    measured = said.evaluation_tokens("heldout").settings
    assert (measured.template, measured.loss_on) == ("zephyr", "all")
