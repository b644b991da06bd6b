"""What it takes to train another architecture: nothing, where transformers has it; else its code, if it is trusted."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import acquire_model
from amberline.core.manifests import read_manifest
from amberline.model.forward import weighted_loss
from amberline.model.load import load_model
from amberline.model.packed import pack
from amberline.recipe.data import Pretrained

HERE = Path(__file__).parent
BATCH = pack([(list(range(3, 12)), list(range(3, 12)), 0.1), ([5, 6, 7], [5, 6, 7], 0.1)])


@pytest.fixture
def mine(small_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_model, tmp_path / "mine")


def acquired(folder: Path, output: Path, *, trust: bool = False) -> Path:
    asked = {"pretrained": str(folder), "revision": None, "licence": None, "trust_remote_code": trust}
    acquire_model.main(json.dumps(asked), output)
    return output


def changed(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def own_code(folder: Path) -> None:
    shutil.copyfile(HERE / "new_architecture.py", folder / "own.py")
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    changed(folder, model_type="of_my_own", auto_map=classes)


def test_one_that_transformers_has_takes_nothing(mine: Path, tmp_path: Path) -> None:
    """The folder of a Llama is that of an Arcee without gates: the same files, another architecture."""
    changed(mine, model_type="arcee", hidden_act="silu")
    tensors = load_file(mine / "model.safetensors")
    save_file({name: each for name, each in tensors.items() if "gate_proj" not in name}, mine / "model.safetensors")
    model = load_model(acquired(mine, tmp_path / "base"), device="cpu")
    assert type(model).__name__ == "ArceeForCausalLM"
    assert weighted_loss(model, BATCH).isfinite()


def test_one_with_code_of_its_own_is_run_where_the_recipe_trusts_it(mine: Path, tmp_path: Path) -> None:
    expected = weighted_loss(load_model(mine, device="cpu"), BATCH)
    own_code(mine)
    base = acquired(mine, tmp_path / "base", trust=True)
    assert "own.py" in read_manifest(base)["files"]
    model = load_model(base, device="cpu")
    assert type(model).__name__ == "OwnForCausalLM"
    assert torch.equal(weighted_loss(model, BATCH), expected)


def test_code_is_not_run_where_nobody_said_so(mine: Path, tmp_path: Path) -> None:
    own_code(mine)
    (mine / "own.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(SystemExit, match=r"describes a 'of_my_own' model, whose code is .* trust_remote_code: true"):
        acquired(mine, tmp_path / "base")
    # Nor that of an architecture which transformers has itself.
    changed(mine, model_type="llama")
    assert not (acquired(mine, tmp_path / "base") / "own.py").exists()


def test_code_of_another_repository_is_refused(mine: Path, tmp_path: Path) -> None:
    """transformers would fetch it, of whatever commit is the newest one."""
    own_code(mine)
    for foreign in ("somebody/else--own.OwnConfig", [None, "somebody/else--own.OwnConfig"]):
        changed(mine, auto_map={"AutoConfig": "own.OwnConfig", "AutoTokenizer": foreign})
        with pytest.raises(SystemExit, match=r"takes its code from another repository \(somebody/else--own"):
            acquired(mine, tmp_path / "base", trust=True)


def test_code_of_a_branch_is_refused() -> None:
    asked = {"pretrained": "someone/model", "licence": None, "trust_remote_code": True}
    assert Pretrained(**asked, revision="0123456789" * 4).trust_remote_code
    with pytest.raises(ValueError, match="trust_remote_code needs a commit as revision"):
        Pretrained(**asked, revision="main")


def test_tied_weights_may_be_there_twice_if_they_are_equal(mine: Path, tmp_path: Path) -> None:
    changed(mine, tie_word_embeddings=True)
    with pytest.raises(SystemExit, match=r"lm_head.weight differs from model.embed_tokens.weight, but .* Fix: "):
        acquired(mine, tmp_path / "base")
    tensors = load_file(mine / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, mine / "model.safetensors")
    twice = read_manifest(acquired(mine, tmp_path / "twice"))["facts"]["parameters"]
    del tensors["lm_head.weight"]
    save_file(tensors, mine / "model.safetensors")
    base = acquired(mine, tmp_path / "once")
    assert read_manifest(base)["facts"]["parameters"] == twice == sum(each.numel() for each in tensors.values())
    assert load_model(base, device="cpu").lm_head.weight.shape == (300, 32)
