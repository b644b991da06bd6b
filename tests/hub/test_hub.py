"""Acquisition from a hub on loopback, through HF_ENDPOINT."""

import hashlib
import json
import lzma
import shutil
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import torch
from hub_server import COMMIT, Answer, HubServer, published_source
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import acquire
import acquire_model
from amberline.core.manifests import ManifestError, manifest_path, model_content, verify
from amberline.formats.registry import load_format
from amberline.hub.downloads import FRUITLESS_ATTEMPTS
from amberline.hub.origins import find_misfit
from amberline.recipe.data import Source

ROWS = [
    {
        "id": f"row{number}_0",
        "conversations": [{"from": "human", "value": "é" * 40}, {"from": "gpt", "value": "y" * 900}],
    }
    for number in range(1200)
]
CONTENT = json.dumps(ROWS, ensure_ascii=False).encode()
NAME = "someone/conversations/rows.json"


def source(**changes: object) -> str:
    return published_source(CONTENT, len(ROWS), **changes)


def get(output: Path, **changes: object) -> None:
    acquire.main("chats", source(**changes), output)


def refusal(output: Path, **changes: object) -> str:
    """The one message of an acquisition that must fail, and leave nothing that could be taken for its output."""
    with pytest.raises(SystemExit) as stop:
        get(output, **changes)
    assert isinstance(stop.value.code, str), "a message, not a status"
    assert not [path for path in output.parent.glob("*") if not path.name.startswith(".")]
    return stop.value.code


@pytest.fixture
def output(tmp_path: Path, hub: HubServer) -> Path:
    hub.files[NAME] = CONTENT
    return tmp_path / "results" / "raw" / "sharegpt.json"


def test_file_is_fetched_through_redirects_and_described(hub: HubServer, output: Path) -> None:
    get(output)
    assert output.read_bytes() == CONTENT
    assert hub.sent_bytes == len(CONTENT)
    manifest = verify(output)
    assert manifest["facts"]["rows"] == len(ROWS)
    assert manifest["facts"]["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert manifest["facts"]["origin"] == {
        "repository": "someone/conversations",
        "revision": COMMIT,
        "file": "rows.json",
    }
    assert "cc0-1.0" not in json.dumps(manifest), "what is only said of the file is no part of what is handed on"
    assert sorted(path.name for path in output.parent.iterdir()) == ["sharegpt.json", "sharegpt.json.manifest.json"]


def test_what_the_configuration_leaves_open_is_said_to_be_not_verified(output: Path, capsys) -> None:
    get(output, bytes=None, sha256=None, rows=None)
    assert "not verified, for the configuration does not say: bytes, sha256, rows" in capsys.readouterr().err


def test_what_is_expected_is_no_part_of_the_manifest(output: Path) -> None:
    get(output)
    expected = manifest_path(output).read_bytes()
    get(output, bytes=None, rows=None)
    assert manifest_path(output).read_bytes() == expected


@pytest.mark.parametrize(
    "cuts", [[1], [100_000], [len(CONTENT) - 1], [0, 0, 7], [300_000, 1, 65_536, 0, 500_000]], ids=str
)
def test_a_cut_connection_goes_on_where_it_was(hub: HubServer, output: Path, cuts: list[int]) -> None:
    hub.cuts = list(cuts)
    get(output)
    assert output.read_bytes() == CONTENT
    assert hub.sent_bytes == len(CONTENT), "no byte was fetched twice"
    assert len(hub.ranges_asked) == len(cuts) + 1
    done = 0
    for cut, asked in zip(cuts, hub.ranges_asked, strict=False):
        assert asked == (f"bytes={done}-" if done else None)
        done += cut
    assert len(hub.slept) == len(cuts)


def test_a_killed_download_goes_on_in_the_next_run(hub: HubServer, output: Path) -> None:
    hub.cuts = [200_000] + [0] * FRUITLESS_ATTEMPTS
    message = refusal(output)
    assert "network failed" in message and "run this again" in message
    assert len(hub.slept) == FRUITLESS_ATTEMPTS
    assert hub.slept[-1] > hub.slept[1], "waits grow"
    get(output)
    assert output.read_bytes() == CONTENT
    assert hub.sent_bytes == len(CONTENT), "no byte was fetched twice"


def test_the_rest_of_another_content_is_not_continued(hub: HubServer, output: Path) -> None:
    hub.files[NAME] = CONTENT[::-1]
    hub.cuts = [200_000] + [0] * FRUITLESS_ATTEMPTS
    refusal(output)
    hub.files[NAME] = CONTENT
    get(output)
    assert output.read_bytes() == CONTENT


def test_a_store_without_ranges_sends_all_again(hub: HubServer, output: Path) -> None:
    hub.ranges = False
    hub.cuts = [200_000]
    get(output)
    assert output.read_bytes() == CONTENT
    assert hub.sent_bytes == len(CONTENT) + 200_000


def test_damage_on_the_way_is_noticed_by_the_hubs_own_digest(hub: HubServer, output: Path) -> None:
    hub.sends[NAME] = CONTENT.replace(b"row7_0", b"row8_0")
    assert "damaged on the way" in refusal(output, sha256=None)
    hub.sends.clear()
    get(output)
    assert output.read_bytes() == CONTENT


def test_another_content_than_configured_is_refused(hub: HubServer, output: Path) -> None:
    message = refusal(output, sha256="0" * 64)
    assert "sha256" in message and "someone/conversations" in message
    assert not list(output.parent.glob(".*")), "what is wrong is not kept"
    assert f"must have {len(CONTENT) + 1:,}" in refusal(output, bytes=len(CONTENT) + 1)
    assert "1,200 rows, but must have 1,201" in refusal(output, rows=1201)


def test_an_existing_verified_file_is_taken(hub: HubServer, output: Path) -> None:
    output.parent.mkdir(parents=True)
    output.write_bytes(CONTENT)
    get(output)
    assert hub.sent_bytes == 0
    output.write_bytes(CONTENT[:-1] + b" ]")
    get(output)
    assert hub.sent_bytes == len(CONTENT)
    assert output.read_bytes() == CONTENT


def test_a_copy_in_the_hubs_cache_is_taken_if_it_is_the_right_one(hub: HubServer, output: Path, tmp_path: Path) -> None:
    cached = tmp_path / "hub-cache" / "datasets--someone--conversations" / "snapshots" / COMMIT / "rows.json"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"[]")
    get(output)
    assert hub.sent_bytes == len(CONTENT)
    output.unlink()
    cached.write_bytes(CONTENT)
    get(output)
    assert hub.sent_bytes == len(CONTENT)


def test_rate_limit_is_obeyed(hub: HubServer, output: Path) -> None:
    hub.answers = [Answer(429, {"Retry-After": "17"}), Answer(503)]
    get(output)
    assert hub.slept[0] == 17
    assert hub.slept[1] != 17
    assert output.read_bytes() == CONTENT


def test_rate_limit_may_name_a_date(hub: HubServer, output: Path) -> None:
    hub.answers = [Answer(429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})]
    get(output)
    assert hub.slept == [0]


def test_a_hub_that_stays_away_ends_with_a_message(hub: HubServer, output: Path) -> None:
    hub.answers = [Answer(500)] * 50
    assert "the hub answers 500" in refusal(output)
    assert len(hub.answers) == 50 - FRUITLESS_ATTEMPTS


def test_token_goes_to_the_hub_and_nowhere_else(hub: HubServer, output: Path, monkeypatch) -> None:
    hub.needs_token = "hf_secret"
    message = refusal(output)
    assert "gated (401)" in message and "HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get(output)
    assert {sent for place, sent in hub.authorizations if place == "store"} == {None}


REFUSED = {
    "no such file": ({"file": "row.json"}, None, "no such file at this revision (404)"),
    "no such repository": ({"repository": "someone/else"}, None, "no such repository, or it is private (401)"),
    "renamed organisation": (
        {"repository": "WizardLM/WizardLM_evol_instruct_V2_196k"},
        None,
        "Use WizardLMTeam/WizardLM_evol_instruct_V2_196k",
    ),
    "no such revision": ({}, Answer(404, {"X-Error-Code": "RevisionNotFound"}), "no such revision (404)"),
    "not found": ({}, Answer(404), "not found (404)"),
    "forbidden": ({}, Answer(403), "access is refused (403)"),
    "no id": ({"repository": "a/b/c"}, None, "no id of a repository"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_say_the_fix(hub: HubServer, output: Path, case: str) -> None:
    changes, answer, message = REFUSED[case]
    hub.answers = [answer] if answer else []
    assert message in refusal(output, **changes)
    assert hub.slept == [], "what time does not fix is not tried again"


def test_no_network(output: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "the network failed" in refusal(output)


def test_offline(output: Path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> httpx2.Response:
        from huggingface_hub.errors import OfflineModeIsEnabled

        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr("amberline.hub.downloads.get_hf_file_metadata", refuse)
    assert "HF_HUB_OFFLINE is set" in refusal(output)


def pku(version: str, rows: int = 3) -> bytes:
    row = {
        "prompt": "p",
        "response_0": "a",
        "response_1": "b",
        "is_response_0_safe": True,
        "is_response_1_safe": False,
        "better_response_id": 0,
        "safer_response_id": 0,
    }
    if version == "v1":
        row |= {"response_0_harm_category": {}, "response_1_harm_category": {}, "response_0_severity_level": 0}
    return "\n".join([json.dumps(row)] * rows).encode()


TRAPS = {
    "v1 instead of v0": ("pku_saferlhf_v0", lzma.compress(pku("v1")), "those of PKU-SafeRLHF v1, but v0 is asked for"),
    "git-LFS pointer": ("sharegpt", b"version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
    "web page": ("sharegpt", b"<html>Sign in</html>", "web page"),
    "glued mirror": (
        "evol_instruct",
        json.dumps([{"idx": "a", "conversations": [{"from": "human", "value": "x"}]}] * 12).encode(),
        "two revisions are glued",
    ),
}


@pytest.mark.parametrize("local", [False, True], ids=["hub", "local"])
@pytest.mark.parametrize("trap", TRAPS)
def test_known_traps_get_their_own_message(
    hub: HubServer, output: Path, tmp_path: Path, monkeypatch, trap: str, local: bool
) -> None:
    name, content, message = TRAPS[trap]
    evol = load_format("evol_instruct")
    monkeypatch.setattr(evol, "too_many", replace(evol.too_many, rows=10))
    hub.files[NAME] = content
    copy = tmp_path / "copy"
    copy.write_bytes(content)
    path = str(copy) if local else None
    # As published, and with nothing to compare to.
    assert message in refusal(output, format=name, path=path)
    assert message in refusal(output, format=name, path=path, bytes=None, sha256=None, rows=None)


UNCHECKED = {"bytes": None, "sha256": None, "rows": None}


def test_v1_rows_are_taken_when_asked_for(hub: HubServer, output: Path) -> None:
    hub.files[NAME] = lzma.compress(pku("v1"))
    assert "row 1: the columns" in (message := refusal(output, format="pku_saferlhf_v0", **UNCHECKED))
    assert "set the source's `format: pku_saferlhf_v1`" in message
    get(output, format="pku_saferlhf_v1", **UNCHECKED)
    assert verify(output)["settings"] == {"name": "chats", "format": "pku_saferlhf_v1"}
    hub.files[NAME] = pku("v0")
    output.unlink()
    output.with_name("sharegpt.json.manifest.json").unlink()
    assert "`format: pku_saferlhf_v0`" in refusal(output, format="pku_saferlhf_v1", **UNCHECKED)


def test_an_unknown_format_is_named(output: Path) -> None:
    assert "there is no format 'none'; there are: alpaca, " in refusal(output, format="none")


def test_another_format_is_a_misfit(output: Path) -> None:
    get(output)
    manifest = verify(output)
    assert find_misfit(Source.model_validate_json(source()), manifest) is None
    other = Source.model_validate_json(source(format="evol_instruct"))
    assert find_misfit(other, manifest) == "its rows were verified as sharegpt, and are to be read as evol_instruct"


def test_wrong_columns_are_refused(hub: HubServer, output: Path) -> None:
    assert "no row has the shape of pku_saferlhf_v0" in refusal(output, format="pku_saferlhf_v0", **UNCHECKED)
    assert "there is no 'idx'" in refusal(output, format="evol_instruct", **UNCHECKED)
    hub.files[NAME] = pku("v0")
    assert "no row has the shape of sharegpt" in refusal(output, **UNCHECKED)


def test_local_file_is_verified_the_same_way(hub: HubServer, output: Path, tmp_path: Path) -> None:
    copy = tmp_path / "mine.json"
    copy.write_bytes(CONTENT)
    get(output, path=str(copy))
    assert output.read_bytes() == CONTENT
    assert verify(output)["facts"]["origin"] == {"local": True}
    assert hub.sent_bytes == 0
    assert str(tmp_path) not in output.with_name("sharegpt.json.manifest.json").read_text()


def test_local_file_that_is_missing(output: Path, tmp_path: Path) -> None:
    assert "Fix: check sources.chats.path" in refusal(output, path=str(tmp_path / "none.json"))


def test_wrong_settings_are_a_message(output: Path) -> None:
    assert "unknown" in refusal(output, unknown=1)


# Models


BESIDE_WEIGHTS = ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")


@pytest.fixture
def model(hub: HubServer, small_model: Path, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a model, of which all else is on the hub."""
    for name in BESIDE_WEIGHTS:
        hub.files[f"someone/model/{name}"] = (small_model / name).read_bytes()
    for name in ("README.md", "modeling_evil.py"):
        hub.files[f"someone/model/{name}"] = b"{}"
    return tensors


@pytest.fixture
def folder(small_model: Path, tmp_path: Path) -> Path:
    """A local folder of all but the weights."""
    for name in BESIDE_WEIGHTS:
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_bytes((small_model / name).read_bytes())
    return tmp_path / "folder"


def get_model(output: Path, **changes: object) -> None:
    wanted = {"pretrained": "someone/model", "revision": "main", "licence": None, "trust_remote_code": False}
    acquire_model.main(json.dumps(wanted | changes), output)


def model_refusal(output: Path, **changes: object) -> str:
    with pytest.raises(SystemExit) as stop:
        get_model(output, **changes)
    assert isinstance(stop.value.code, str)
    assert not output.exists()
    return stop.value.code


def saved(tensors: dict[str, torch.Tensor], path: Path, how: str) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path) if how == "safetensors" else torch.save(tensors, path)
    return path.read_bytes()


def test_weights_that_are_there_already_are_not_fetched_again(hub, model, tmp_path: Path) -> None:
    """As when only the programs changed; where the hub has others now, these are fetched."""
    name = "someone/model/model.safetensors"
    hub.files[name] = saved(model, tmp_path / "model.safetensors", "safetensors")
    get_model(tmp_path / "base")
    before, first = hub.sent_bytes, model_content(tmp_path / "base")
    get_model(tmp_path / "base")
    assert hub.sent_bytes - before < len(hub.files[name])
    assert model_content(tmp_path / "base") == first
    hub.files[name] = saved(
        {key: each + 1 for key, each in model.items()}, tmp_path / "other.safetensors", "safetensors"
    )
    before = hub.sent_bytes
    get_model(tmp_path / "base")
    assert hub.sent_bytes - before > len(hub.files[name])
    assert model_content(tmp_path / "base") != first


@pytest.mark.parametrize("how", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 2])
def test_model_is_fetched_and_its_commit_recorded(hub, model, tmp_path: Path, how: str, shards: int) -> None:
    stem = "model" if how == "safetensors" else "pytorch_model"
    names = [f"{stem}.{how}"] if shards == 1 else [f"{stem}-0000{n}-of-00002.{how}" for n in (1, 2)]
    for number, name in enumerate(names):
        part = dict(list(model.items())[number :: len(names)])
        hub.files[f"someone/model/{name}"] = saved(part, tmp_path / "made" / name, how)
    output = tmp_path / "models" / "base"
    hub.cuts = [10] * 3
    get_model(output)
    manifest = verify(output)
    assert manifest["kind"] == "model"
    assert manifest["facts"] == {
        "parameters": sum(tensor.numel() for tensor in model.values()),
        "commit": COMMIT,
        "origin": {"repository": "someone/model", "revision": "main"},
    }
    present = {path.name for path in output.iterdir()}
    assert "modeling_evil.py" not in present and not any(name.endswith(".bin") for name in present)
    assert ("model.safetensors.index.json" in present) == (shards == 2)
    got = {key: value for path in output.glob("*.safetensors") for key, value in load_file(path).items()}
    assert got.keys() == model.keys()
    assert all(torch.equal(got[key], model[key]) for key in model)
    assert list(output.parent.iterdir()) == [output], "nothing is left beside it"


def test_weights_that_cannot_be_written_are_a_message(hub, model, tmp_path: Path, monkeypatch) -> None:
    """safetensors has an error of its own for a full disk."""

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    hub.files["someone/model/pytorch_model.bin"] = saved(model, tmp_path / "made" / "pytorch_model.bin", "bin")
    monkeypatch.setattr("safetensors.torch.save_file", full)
    message = model_refusal(tmp_path / "models" / "base")
    assert "model.safetensors: the weights cannot be written (Error while serializing" in message and "Fix: " in message


def test_model_download_goes_on_in_the_next_run(hub, model, tmp_path: Path) -> None:
    hub.files["someone/model/model.safetensors"] = saved(model, tmp_path / "made" / "model.safetensors", "safetensors")
    hub.files["someone/model/a.bin"] = b""
    output = tmp_path / "models" / "base"
    total = sum(len(hub.files[f"someone/model/{name}"]) for name in (*BESIDE_WEIGHTS, "model.safetensors"))
    hub.cuts = [None] * len(BESIDE_WEIGHTS) + [30_000] + [0] * FRUITLESS_ATTEMPTS
    assert "run this again" in model_refusal(output)
    get_model(output)
    assert hub.sent_bytes == total


def test_unpickling_runs_no_code(hub, model, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"w": Evil()}, tmp_path / "evil.bin")
    hub.files["someone/model/pytorch_model.bin"] = (tmp_path / "evil.bin").read_bytes()
    assert "cannot be read as weights" in model_refusal(tmp_path / "base")
    assert not (tmp_path / "ran").exists()


def test_models_that_are_none(hub, model, tmp_path: Path) -> None:
    output = tmp_path / "base"
    assert "no weights" in model_refusal(output)
    assert "no such folder" in model_refusal(output, pretrained=str(tmp_path / "none"))
    assert "no such repository" in model_refusal(output, pretrained="someone/else")
    assert "say which revision of 'someone/model'" in model_refusal(output, revision=None)
    (tmp_path / "folder").mkdir()
    assert "no config.json" in model_refusal(output, pretrained=str(tmp_path / "folder"), revision=None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"),
        (b"\x10\0\0\0\0\0\0\0{}", "damaged or cut short"),
    ],
)
def test_local_weights_are_looked_at(folder: Path, tmp_path: Path, content: bytes, message: str) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert message in model_refusal(tmp_path / "base", pretrained=str(folder), revision=None)


def test_missing_shard_of_a_local_model(folder: Path, tensors, tmp_path: Path) -> None:
    saved(tensors, folder / "model-00001-of-00002.safetensors", "safetensors")
    assert "some are missing" in model_refusal(tmp_path / "base", pretrained=str(folder), revision=None)


def test_local_model_is_linked_and_not_touched(folder: Path, tensors, tmp_path: Path) -> None:
    content = saved(tensors, folder / "pytorch_model.bin", "bin")
    get_model(tmp_path / "base", pretrained=str(folder), revision=None)
    assert (folder / "pytorch_model.bin").read_bytes() == content
    assert verify(tmp_path / "base")["facts"]["commit"] is None
    linked = tmp_path / "base" / "config.json"
    assert linked.is_symlink()
    assert linked.resolve() == folder / "config.json"


def test_a_local_model_that_changes_is_refused_with_its_name(folder: Path, tensors, tmp_path: Path) -> None:
    saved(tensors, folder / "model.safetensors", "safetensors")
    get_model(tmp_path / "base", pretrained=str(folder), revision=None)
    (folder / "config.json").write_text('{"changed": true}')
    with pytest.raises(ManifestError) as refused:
        verify(tmp_path / "base")
    assert f"{folder / 'config.json'}, which it links to, was changed after it was verified. Fix:" in str(refused.value)


def test_a_local_model_may_lie_anywhere(small_model: Path, tensors, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(small_model, tmp_path / "home/folder")
    (tmp_path / "home/results").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home/results")
    parameters = sum(tensor.numel() for tensor in tensors.values())
    for number, place in enumerate(("~/folder", "../folder", "./../folder")):
        get_model(tmp_path / f"base{number}", pretrained=place, revision=None)
        assert verify(tmp_path / f"base{number}")["facts"]["parameters"] == parameters
