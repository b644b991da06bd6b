"""The published recipe, its types, their documentation and the schema tell the same story."""

import json
import re
from copy import deepcopy

import jsonschema
import pytest
import yaml

from amberline.core.settings import Settings, leaves
from amberline.evaluations.registry import evaluation_names
from amberline.recipe.check import check_cluster, check_recipe, deviations
from amberline.recipe.cluster import Cluster
from amberline.recipe.data import Source
from amberline.recipe.faults import paths_of, settings_in
from amberline.recipe.files import ConfigurationError, put_on_top
from amberline.recipe.hardware import Hardware
from amberline.recipe.nodes import DATASETS, MODELS, evaluation_node, trained_model
from amberline.recipe.resolve import SECTIONS, Around
from amberline.recipe.schema import schema
from recipe.conftest import DEMO, PUBLISHED, ROOT, recipe_with, refused


def comments(text: str) -> dict[str, str]:
    """Dotted path of each key of a YAML file, and the comment behind it."""
    found, path = {}, []
    for line in text.splitlines():
        if match := re.match(r"^( *)([a-z_0-9-]+):(.*?)(?:  # (.*))?$", line):
            indent, key, _, comment = match.groups()
            path = [*path[: len(indent) // 2], key]
            found[".".join(path)] = comment or ""
    return found


def described(model: type[Settings], values: dict, prefix: str) -> dict[str, str]:
    """Of the keys that a file says, the descriptions in their types: of a union, in the one of that name."""
    found = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key not in values:
            continue
        found[f"{prefix}{key}"] = field.description or ""
        inner = settings_in(field.annotation)
        if inner and isinstance(values[key], dict):
            named = [each for each in inner if len(inner) == 1 or set(values[key]) <= {n for n, _ in paths_of(each)}]
            found |= described(named[0], values[key], f"{prefix}{key}.")
    return found


def type_of(section: str, node: dict) -> type[Settings]:
    if section == "sources":
        return Source
    if section == "datasets":
        return next(model for kind, model in DATASETS.items() if kind in node)
    if section == "evaluations":
        return next(evaluation_node(kind) for kind in evaluation_names() if kind in node)
    if "train" not in node:
        return next(model for kind, model in MODELS.items() if kind in node)
    return trained_model(
        node["train"], "preferences" if "pairs" in PUBLISHED["datasets"][node["on"]] else "conversations"
    )


def test_every_key_of_config_yaml_is_explained_in_the_words_of_its_type():
    found = comments((ROOT / "config.yaml").read_text(encoding="utf-8"))
    expected = described(Around, PUBLISHED, "")
    for section in SECTIONS:
        for name, node in PUBLISHED[section].items():
            expected |= described(type_of(section, node), node, f"{section}.{name}.")
    for name, keys in PUBLISHED["hardware"].items():
        expected |= described(Hardware, keys, f"hardware.{name}.")
    for kind, keys in PUBLISHED["defaults"].items():
        expected |= described(default_type(kind), keys, f"defaults.{kind}.")
    assert {key: found[key] for key in expected} == expected
    # What is left are sections and names of nodes; what a section is for is said behind it.
    sections = {*SECTIONS, "defaults", "hardware"}
    names = {f"{section}.{name}" for section in sections for name in PUBLISHED[section]}
    assert found.keys() - expected.keys() == sections | names
    assert all(found[section] for section in sections)


def default_type(kind: str) -> type[Settings]:
    """A type that has the keys of a kind of node."""
    if kind == "source":
        return Source
    if kind in DATASETS | MODELS:
        return (DATASETS | MODELS)[kind]
    if kind in evaluation_names():
        return evaluation_node(kind)
    return trained_model("sft" if kind == "train" else kind, "conversations")


def test_every_key_of_site_yaml_is_explained_in_the_words_of_its_type():
    found = comments((ROOT / "slurm/site.yaml").read_text(encoding="utf-8"))
    assert found == {"cluster": ""} | described(Cluster, site(), "cluster.")


def test_the_schema_in_docs_is_that_of_the_types():
    assert json.loads((ROOT / "docs/config.schema.json").read_text(encoding="utf-8")) == schema(), "run: make schema"


@pytest.mark.parametrize("file", ["config.yaml", "demo/config.yaml", "slurm/site.yaml"])
def test_our_own_files_follow_the_schema(file):
    values = yaml.safe_load((ROOT / file).read_text(encoding="utf-8").replace("    on:", '    "on":'))
    jsonschema.validate(values, schema())


def test_no_type_has_a_default():
    """config.yaml is the one place where values stand."""
    trained = [trained_model(name, holds) for name in ("sft", "dpo") for holds in ("conversations", "preferences")]
    waiting, seen = [Around, Hardware, Source, *DATASETS.values(), *MODELS.values(), *trained], set()
    waiting += [evaluation_node(name) for name in evaluation_names()]
    while waiting:
        model = waiting.pop()
        seen.add(model)
        for name, field in model.model_fields.items():
            assert field.is_required(), f"{model.__name__}.{name}"
            waiting += [inner for inner in settings_in(field.annotation) if inner not in seen]


def test_the_published_recipe_and_the_demo_are_valid():
    assert not deviations(recipe_with())
    check_recipe(PUBLISHED)
    check_recipe(DEMO, files=False)


def test_the_demo_changes_sizes_and_not_structure():
    more = {"evaluations": {"chat"}}
    assert {section: set(DEMO[section]) - more.get(section, set()) for section in SECTIONS} == {
        section: set(PUBLISHED[section]) for section in SECTIONS
    }
    structure = {"mode", "template", "loss", "loss_normalization", "name", "partial_batch", "select", "truncation"}
    structure |= {"from", "on", "train", "responses", "mix", "chunk", "pairs", "reference", "tokenizer", "format"}
    demo = yaml.safe_load((ROOT / "demo/config.yaml").read_text(encoding="utf-8"))
    assert not {path for path, _ in leaves(demo) if path.rpartition(".")[2] in structure}


def chat(**values) -> dict:
    return {"models": {"amberchat": values}}


def safe(**values) -> dict:
    return {"models": {"ambersafe": values}}


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        (chat(learning_rat=1), ["models.amberchat.learning_rat", "did you mean models.amberchat.learning_rate"]),
        (chat(epochs="three"), ["models.amberchat.epochs", "'three'", "integer"]),
        (chat(epochs=True), ["models.amberchat.epochs", "True", "integer"]),
        (chat(global_batch=-256), ["models.amberchat.global_batch", "-256", "greater than 0"]),
        (chat(global_batch=255), ["models.amberchat", "255", "not divisible", "micro_batch_examples"]),
        (chat(learning_rate=float("nan")), ["models.amberchat.learning_rate", "nan"]),
        (chat(optimizer={"name": "sgd"}), ["models.amberchat.optimizer", "sgd", "adamw"]),
        (chat(optimizer={"beta1": 2}), ["models.amberchat.optimizer.beta1: found 2", "less than 1"]),
        (chat(optimizer={"bta1": 2}), ["optimizer.bta1: unknown key", "did you mean models.amberchat.optimizer.beta1"]),
        (chat(export="step 0"), ["models.amberchat.export", "step 0"]),
        (chat(monitors={"action": "shout"}), ["models.amberchat.monitors.action: found 'shout'", "'warn'"]),
        ({"hardware": {"default": {"attention": "dense"}}}, ["hardware.default.attention", "'dense'", "'sdpa'"]),
        (
            {"hardware": {"ambersafe": {"attention": "varlen"}}},
            [
                "hardware.ambersafe.attention: found 'varlen'",
                "float32",
                "Fix: set hardware.ambersafe.attention to auto",
            ],
        ),
        (
            {"hardware": {"score_reference": {"attention": "flash"}}},
            ["hardware.score_reference.attention: found 'flash'"],
        ),
        ({"hardware": {"rewards": {"attention": "varlen"}}}, ["hardware.rewards.attention: found 'varlen'", "float32"]),
        (
            {"hardware": {"ambersafe": {"attention": "efficient", "device": "cpu"}}},
            ["hardware.ambersafe.attention: found 'efficient', which needs device: cuda"],
        ),
        ({"hardware": {"ambersafe": {"hours": "long"}}}, ["hardware.ambersafe.hours", "'long'"]),
        ({"hardware": {"ambersafe": {"micro_batch_tokens": "all"}}}, ["hardware.ambersafe.micro_batch_tokens: found"]),
        ({"models": {"base": {"revision": None}}}, ["models.base", "say which revision of 'LLM360/Amber'"]),
        ({"models": {"base": {"pretrained": "./no/model"}}}, ["models.base.pretrained", "'./no/model'", "config.json"]),
        (
            {"sources": {"sharegpt": {"path": "no/file.json"}}},
            ["sources.sharegpt.path", "no/file.json", "no such file"],
        ),
        ({"sources": {"sharegpt": {"sha256": "abc"}}}, ["sources.sharegpt.sha256", "'abc'", "pattern"]),
        ({"sources": {"pku_test": {"file": None}}}, ["sources.pku_test", "repository, revision and file"]),
        (safe(max_prompt_length=512), ["models.ambersafe", "512", "smaller than max_length"]),
        (safe(label_smoothing=0.5), ["models.ambersafe.label_smoothing", "0.5", "less than 0.5"]),
        (safe(beta=0), ["models.ambersafe.beta", "0", "greater than 0"]),
        ({"datasets": {"evol-mix-split": {"keep_leading_answer": True}}}, ["keep_leading_answer", "lossless"]),
        ({"datasets": {"evol-mix": {"mix": []}}}, ["datasets.evol-mix.mix", "at least 1"]),
        ({"datasets": {"safe-pairs": {"pairs": {"train": 3}}}}, ["datasets.safe-pairs.pairs.train: found 3"]),
        ({"models": 3}, ["models: found 3; must be nodes by name"]),
        ({"models": {"amberchat": 3}}, ["models.amberchat: found 3; must be keys and their values"]),
        ({"modles": {}}, ["modles: unknown key; did you mean models?"]),
        ({"stale": "no"}, ["stale: found 'no'", "'ask'"]),
        ({"data_hardware": {"proceses": 1}}, ["data_hardware.proceses: unknown key", "data_hardware.processes"]),
    ],
)
def test_a_wrong_value_is_told_by_key_value_and_fix(overlay, said):
    with pytest.raises(ConfigurationError) as error:
        check_recipe(put_on_top(deepcopy(PUBLISHED), overlay))
    assert all(part in str(error.value) for part in said), str(error.value)
    assert "config.yaml" in str(error.value)


def test_a_training_in_bfloat16_may_ask_for_flash_attention():
    check_recipe(put_on_top(deepcopy(PUBLISHED), {"hardware": {"amberchat": {"attention": "varlen"}}}), files=False)


def test_a_missing_key_is_told_with_its_meaning():
    values = {**PUBLISHED, "models": {**PUBLISHED["models"]}}
    values["models"]["amberchat"] = {
        key: each for key, each in PUBLISHED["models"]["amberchat"].items() if key != "seed"
    }
    assert "models.amberchat.seed: missing (seed of the order of examples)" in refused(on=values)


def test_all_faults_are_told_at_once():
    message = refused(chat(epochs=0), {"nonsense": 1}, {"datasets": {"evol-mix": {"seed": -1}}})
    assert "models.amberchat.epochs" in message
    assert "nonsense" in message
    assert "datasets.evol-mix.seed" in message


def test_a_local_file_with_other_content_is_refused(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text("[]")
    for key, value in (("bytes", 3), ("sha256", "0" * 64)):
        source = {"path": str(file), "bytes": None, "sha256": None, "rows": None} | {key: value}
        values = {**PUBLISHED, "sources": {**PUBLISHED["sources"]}}
        values["sources"]["sharegpt"] = {**PUBLISHED["sources"]["sharegpt"], **source}
        with pytest.raises(ConfigurationError, match=rf"sources\.sharegpt\.{key}.*rows\.json"):
            check_recipe(values)


# The cluster


def site(**values) -> dict:
    return yaml.safe_load((ROOT / "slurm/site.yaml").read_text(encoding="utf-8"))["cluster"] | values


@pytest.mark.parametrize("scratch", ["/local/$USER", "$TMPDIR", "/local/${SLURM_JOB_ID}/a", None])
def test_a_folder_on_nodes_may_have_variables(scratch):
    assert check_cluster(site(scratch=scratch)).scratch == scratch


@pytest.mark.parametrize("scratch", ["disk", "/x; ls", "/x'", "$(ls)"])
def test_a_folder_on_nodes_is_absolute_and_no_command(scratch):
    with pytest.raises(ConfigurationError, match=r"cluster\.scratch: found.*\n.*slurm/site\.yaml"):
        check_cluster(site(scratch=scratch))


def test_a_list_of_modules_is_told_by_its_place():
    with pytest.raises(ConfigurationError, match=r"cluster\.modules\.1: found 'a b'"):
        check_cluster(site(modules=["cuda", "a b"]))
