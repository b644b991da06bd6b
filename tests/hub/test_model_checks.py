"""What a later stage needs of a model is checked when it is acquired: architecture, weights and tokenizer together."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hub_server import COMMIT, HubServer
from safetensors.torch import save_file

import acquire_model
from amberline.recipe.check import check_recipe
from amberline.recipe.files import PUBLISHED, ConfigurationError, put_on_top, read_recipe

ARCHITECTURES = [
    ({"model_type": "no such"}, "describes a 'no such' model, which transformers"),
    ({"model_type": None}, "gives None as model_type"),
    ({"model_type": "mixtral"}, "describes a mixture of experts (num_local_experts 8)"),
    ({"model_type": "gemma2"}, "caps logits softly (attn_logit_softcapping 50.0)"),
    ({"hidden_size": 0}, "gives 0 as hidden_size"),
    ({"num_key_value_heads": "2"}, "gives '2' as num_key_value_heads"),
    ({"pad_token_id": 300}, "gives 300 as pad_token_id, but its embeddings have 300 rows"),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "scales rotary positions as 'dynamic'"),
    ({"model_type": "my_own", "auto_map": {"AutoConfig": "c.C"}}, "describes a 'my_own' model, whose code is in"),
]


@pytest.fixture
def mine(small_model: Path, tmp_path: Path) -> Path:
    """A folder that a test may spoil."""
    return shutil.copytree(small_model, tmp_path / "mine")


def changed(folder: Path, file: str, **values: object) -> None:
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))


def acquired(folder: Path, output: Path) -> None:
    acquire_model.main(
        json.dumps({"pretrained": str(folder), "revision": None, "licence": None, "trust_remote_code": False}), output
    )


def refused(folder: Path, output: Path) -> str:
    with pytest.raises(SystemExit) as stop:
        acquired(folder, output)
    message = stop.value.code
    assert isinstance(message, str), "a message, not a status"
    assert "Fix: " in message and "\n" not in message and ".partial" not in message
    assert not output.exists()
    return message


@pytest.mark.parametrize(("values", "why"), ARCHITECTURES)
def test_what_cannot_be_trained_is_refused_when_it_is_acquired(mine: Path, tmp_path: Path, values, why: str) -> None:
    changed(mine, "config.json", **values)
    assert f"{mine}/config.json {why}" in refused(mine, tmp_path / "base")


def test_a_local_folder_is_refused_when_the_recipe_is_read(mine: Path) -> None:
    on_top = {"models": {"base": {"pretrained": str(mine), "revision": None}}}
    recipe = put_on_top(read_recipe([PUBLISHED]), on_top)
    check_recipe(recipe)
    changed(mine, "config.json", num_experts=8)
    with pytest.raises(ConfigurationError, match=r"models.base.pretrained: .* describes a mixture of experts"):
        check_recipe(recipe)


def test_of_the_hub_no_weights_are_fetched_of_what_cannot_be_trained(hub: HubServer, mine: Path, tmp_path) -> None:
    changed(mine, "config.json", model_type="mixtral")
    hub.files |= {f"someone/model/{file.name}": file.read_bytes() for file in mine.iterdir()}
    asked = json.dumps({"pretrained": "someone/model", "revision": "main", "licence": None, "trust_remote_code": False})
    with pytest.raises(SystemExit, match=r"someone/model @ main/config\.json describes a mixture of experts"):
        acquire_model.main(asked, tmp_path / "base")
    assert hub.sent_bytes < (mine / "model.safetensors").stat().st_size


def test_a_branch_is_named_with_the_commit_that_it_was_at(hub: HubServer, small_model: Path, tmp_path, capsys) -> None:
    hub.files |= {f"someone/model/{file.name}": file.read_bytes() for file in small_model.iterdir()}
    for revision in ("main", COMMIT):
        asked = json.dumps(
            {"pretrained": "someone/model", "revision": revision, "licence": None, "trust_remote_code": False}
        )
        acquire_model.main(asked, tmp_path / revision)
        assert (f"set `revision: {COMMIT}`" in capsys.readouterr().err) == (revision == "main")


WEIGHTS = [
    (lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"), "lack model.layers.1.mlp.up_proj.weight, which"),
    (lambda tensors: tensors.update(extra=torch.zeros(2)), "has extra, which no model with this config.json has"),
    (
        lambda tensors: tensors.update({"lm_head.weight": torch.zeros(299, 32)}),
        "lm_head.weight has the shape [299, 32]",
    ),
    (lambda tensors: tensors.update({"model.norm.weight": torch.ones(32).to(torch.int8)}), "is I8, a quantised weight"),
]


@pytest.mark.parametrize(("change", "why"), WEIGHTS)
def test_weights_are_held_against_the_configuration(mine: Path, tensors, tmp_path: Path, change, why: str) -> None:
    change(tensors)
    save_file(tensors, mine / "model.safetensors")
    assert why in refused(mine, tmp_path / "base")


def test_another_vocabulary_in_the_configuration_is_refused(mine: Path, tmp_path: Path) -> None:
    changed(mine, "config.json", vocab_size=320)
    message = refused(mine, tmp_path / "base")
    assert "model.embed_tokens.weight has the shape [300, 32], but config.json implies [320, 32]" in message or (
        "lm_head.weight has the shape [300, 32], but config.json implies [320, 32]" in message
    )


def test_ids_beyond_the_embeddings_are_refused(mine: Path, tmp_path: Path) -> None:
    (mine / "added_tokens.json").write_text('{"<|im_end|>": 300}')
    assert f"{mine}: its tokenizer has ids up to 300" in refused(mine, tmp_path / "base")


def test_a_tokenizer_that_would_be_refused_later_is_refused_at_once(mine: Path, tmp_path: Path) -> None:
    changed(mine, "tokenizer_config.json", add_bos_token=False)
    assert "it adds no beginning-of-sequence token" in refused(mine, tmp_path / "base")


def test_vocab_and_merges_alone_are_no_tokenizer(mine: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer.model"):
        (mine / name).unlink()
    (mine / "vocab.json").write_text("{}")
    (mine / "merges.txt").write_text("")
    assert "there is no tokenizer in it (tokenizer.json or tokenizer.model)" in refused(mine, tmp_path / "base")
