"""What a kill left half made in a results folder is found by the next start of anything there."""

from pathlib import Path

import pytest

from amberline.cluster import claim as claiming
from amberline.cluster.claim import VARIABLE, claim
from amberline.core import files
from amberline.core.files import whole_file, whole_folder


class Killed(BaseException):
    """Ends a block as a kill does: nothing is tidied up after it."""


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.setattr(claiming.shutil, "which", lambda _: None)
    return tmp_path / "results"


def write(folder: Path, text: str) -> None:
    with whole_folder(folder) as partial:
        (partial / "weights").write_text(text)


def killed_at(rename: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace a folder and be killed before the given rename: 0 moves the old one aside, 1 the new one in place."""
    whole, seen = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        seen.append(target)
        if len(seen) > rename:
            raise Killed
        return whole(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            write(folder, "new")


@pytest.mark.parametrize("rename", [0, 1])
def test_a_kill_between_the_renames_loses_nothing(rename: int, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = results / "models/amberchat"
    write(model, "old")
    killed_at(rename, model, monkeypatch)
    assert model.exists() == (rename == 0)
    said: list[str] = []
    claim(results, said.append).release()
    assert (model / "weights").read_text() == "old"
    assert [path.name for path in model.parent.iterdir()] == ["amberchat"]
    assert any(".amberchat.partial was left half made" in line for line in said)
    assert any("amberchat was being replaced" in line and "put back" in line for line in said) == (rename == 1)


def test_a_kill_after_the_renames_leaves_no_old_weights(results: Path) -> None:
    write(results / "models/amberchat", "new")
    aside = results / "models/.amberchat.old.a1b2c3d4"
    write(aside / "amberchat", "old")
    claim(results, print).release()
    assert (results / "models/amberchat/weights").read_text() == "new"
    assert not aside.exists()


def test_half_files_go_and_downloads_and_checkpoints_stay(results: Path) -> None:
    with pytest.raises(Killed), whole_file(results / "data/mix.json") as partial:
        partial.write_text("[")
        raise Killed
    (results / "data/.mix.json.partial").write_text("[")
    kept = [
        results / "models/.base.download/.model.safetensors.partial",
        results / "checkpoints/amberchat-0123456789abcdef/step-00000003.partial-1-2/__0_0.distcp",
        results / "data/mix.partial",
        results / "demo/models/.of-another-recipe.partial/weights",
    ]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    claim(results, print).release()
    assert not (results / "data/.mix.json.partial").exists()
    assert all(path.exists() for path in kept)
