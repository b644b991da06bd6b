"""The configuration, its types, its documentation and its schema tell the same story."""

import json
import re
import types
import typing
from pathlib import Path

import pytest
import yaml

from amberline.core.settings import Settings, leaves
from amberline.recipe.check import ConfigurationError, check_cluster, check_configuration, deviations
from amberline.recipe.cluster import Cluster
from amberline.recipe.config import Config, schema

ROOT = Path(__file__).parents[2]
PUBLISHED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


def commented_keys(text: str) -> dict[str, str]:
    """Dotted path of each key of a YAML file, and the comment behind it."""
    found, path = {}, []
    for line in text.splitlines():
        if match := re.match(r"^( *)([a-z_0-9]+):(.*?)(?:  # (.*))?$", line):
            indent, key, _, comment = match.groups()
            path = [*path[: len(indent) // 2], key]
            found[".".join(path)] = comment or ""
    return found


def settings_in(annotation: object) -> list[type[Settings]]:
    """The settings classes inside a type: itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    if typing.get_origin(annotation) in {typing.Union, types.UnionType, typing.Annotated}:
        return [each for inner in typing.get_args(annotation) for each in settings_in(inner)]
    return []


def described(model: type[Settings], values: dict, prefix: str = "") -> dict[str, str]:
    """Dotted path of each key, and its description in the types."""
    found = {}
    for name, field in model.model_fields.items():
        found[prefix + name] = field.description or ""
        for inner in settings_in(field.annotation):
            if isinstance(values.get(name), dict) and set(values[name]) == set(inner.model_fields):
                found |= described(inner, values[name], f"{prefix}{name}.")
    return found


def test_every_key_of_config_yaml_is_explained_in_the_words_of_its_type():
    assert commented_keys((ROOT / "config.yaml").read_text(encoding="utf-8")) == described(Config, PUBLISHED)


def test_every_key_of_site_yaml_is_explained_in_the_words_of_its_type():
    found = commented_keys((ROOT / "slurm/site.yaml").read_text(encoding="utf-8"))
    assert found == {"cluster": ""} | described(Cluster, site(), "cluster.")


def test_the_schema_in_docs_is_that_of_the_types():
    assert json.loads((ROOT / "docs/config.schema.json").read_text(encoding="utf-8")) == schema(), "run: make schema"


def test_no_type_has_a_default():
    """config.yaml is the one place where values stand."""
    waiting, seen = [Config], set()
    while waiting:
        model = waiting.pop()
        seen.add(model)
        for name, field in model.model_fields.items():
            assert field.is_required(), f"{model.__name__}.{name}"
            waiting += [inner for inner in settings_in(field.annotation) if inner not in seen]


def test_the_published_recipe_and_the_demo_are_valid():
    assert not deviations(PUBLISHED, ROOT / "config.yaml")
    check_configuration(PUBLISHED)
    demo = with_overlay(PUBLISHED, yaml.safe_load((ROOT / "demo/config.yaml").read_text(encoding="utf-8")))
    check_configuration(demo, files=False)


def test_the_demo_changes_sizes_and_not_structure():
    demo = yaml.safe_load((ROOT / "demo/config.yaml").read_text(encoding="utf-8"))
    structure = {"mode", "template", "loss", "loss_normalization", "name", "partial_batch", "version", "truncation"}
    assert not {path for path, _ in leaves(demo) if path.rpartition(".")[2] in structure}


def test_an_exponent_without_a_point_is_a_number():
    """YAML 1.1 reads 2e-5 as a string."""
    written = yaml.safe_load("learning_rate: 2e-5")
    assert written == {"learning_rate": "2e-5"}
    config = check_configuration(with_overlay(PUBLISHED, {"amberchat": {"training": written}}))
    assert config.amberchat.training.learning_rate == 2e-5
    assert not deviations(with_overlay(PUBLISHED, {"amberchat": {"training": written}}), ROOT / "config.yaml")


def with_overlay(values: dict, overlay: dict) -> dict:
    """Nested mappings merged, as Snakemake merges configuration files."""
    merged = dict(values)
    for key, value in overlay.items():
        old = merged.get(key)
        merged[key] = with_overlay(old if isinstance(old, dict) else {}, value) if isinstance(value, dict) else value
    return merged


def training(**values) -> dict:
    return {"amberchat": {"training": values}}


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        (
            training(learning_rat=1),
            ["amberchat.training.learning_rat", "did you mean amberchat.training.learning_rate"],
        ),
        (training(epochs="three"), ["amberchat.training.epochs", "'three'", "integer"]),
        (training(epochs=True), ["amberchat.training.epochs", "True", "integer"]),
        (training(global_batch=-256), ["amberchat.training.global_batch", "-256", "greater than 0"]),
        (training(global_batch=255), ["amberchat.training", "255", "not divisible", "micro_batch_examples"]),
        (training(learning_rate=float("nan")), ["amberchat.training.learning_rate", "nan"]),
        (training(optimizer={"name": "sgd"}), ["amberchat.training.optimizer", "sgd", "adamw"]),
        ({"hardware": {"sft": {"attention": "dense"}}}, ["hardware.sft.attention", "'dense'", "'sdpa'"]),
        (
            {"hardware": {"sft": {"device": "cpu", "attention": "flash"}}},
            ["hardware.sft.attention", "cuda", "auto or sdpa"],
        ),
        ({"base_model": {"repository": None}}, ["base_model", "tiny, path, or both repository and revision"]),
        ({"base_model": {"path": "no/model"}}, ["base_model.path", "'no/model'", "config.json"]),
        (
            {"sources": {"sharegpt": {"path": "no/file.json"}}},
            ["sources.sharegpt.path", "no/file.json", "no such file"],
        ),
        ({"sources": {"sharegpt": {"sha256": "abc"}}}, ["sources.sharegpt.sha256", "'abc'", "pattern"]),
        ({"sources": {"pku_test": {"file": None}}}, ["sources.pku_test", "repository, revision and file"]),
        ({"ambersafe": {"tokens": {"max_prompt_length": 512}}}, ["ambersafe.tokens", "512", "smaller than max_length"]),
        ({"ambersafe": {"dpo": {"label_smoothing": 0.5}}}, ["ambersafe.dpo.label_smoothing", "0.5", "less than 0.5"]),
        ({"ambersafe": {"dpo": {"beta": 0}}}, ["ambersafe.dpo.beta", "0", "greater than 0"]),
        ({"amberchat": {"split": {"keep_leading_answer": True}}}, ["keep_leading_answer", "lossless"]),
        ({"amberchat": {"tokens": {"max_length": 1024}}}, ["amberchat.tokens.max_length", "1024", "2048"]),
        (training(evaluation={"examples": 5, "every_examples": 5}), ["heldout_conversations", "withhold"]),
        ({"amberchat": 3}, ["amberchat", "3"]),
        ({"ambersafe": {"variants": {"mild": {"bta": 1}}}}, ["ambersafe", "variants.mild.bta", "unknown key"]),
        ({"ambersafe": {"variants": {"Mild": {}}}}, ["ambersafe.variants.Mild", "pattern"]),
        ({"ambersafe": {"variants": {"sft": {}}}}, ["variants.sft", "choose another name"]),
    ],
)
def test_a_wrong_configuration_is_told_by_key_value_and_mend(overlay, said):
    with pytest.raises(ConfigurationError) as error:
        check_configuration(with_overlay(PUBLISHED, overlay))
    assert all(part in str(error.value) for part in said), str(error.value)
    assert "config.yaml" in str(error.value)


def site(**values) -> dict:
    return yaml.safe_load((ROOT / "slurm/site.yaml").read_text(encoding="utf-8"))["cluster"] | values


@pytest.mark.parametrize("scratch", ["/local/$USER", "$TMPDIR", "/local/${SLURM_JOB_ID}/a", None])
def test_a_folder_on_nodes_may_have_variables(scratch):
    assert check_cluster(site(scratch=scratch)).scratch == scratch


@pytest.mark.parametrize("scratch", ["disk", "/x; ls", "/x'", "$(ls)"])
def test_a_folder_on_nodes_is_absolute_and_no_command(scratch):
    with pytest.raises(ConfigurationError, match=r"cluster\.scratch: found.*\n.*slurm/site\.yaml"):
        check_cluster(site(scratch=scratch))


def test_all_faults_are_told_at_once():
    with pytest.raises(ConfigurationError) as error:
        check_configuration(with_overlay(PUBLISHED, training(epochs=0) | {"nonsense": 1}))
    assert "amberchat.training.epochs" in str(error.value)
    assert "nonsense" in str(error.value)


def test_a_local_file_with_other_content_is_refused(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text("[]")
    for key, value in (("bytes", 3), ("sha256", "0" * 64)):
        source = {"path": str(file), "bytes": None, "sha256": None, "rows": None} | {key: value}
        with pytest.raises(ConfigurationError, match=rf"sources.sharegpt.{key}.*rows\.json"):
            check_configuration(with_overlay(PUBLISHED, {"sources": {"sharegpt": source}}))
