"""Which checkpoint becomes the model: what a training keeps for that, what is exported, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from plants import ERRORS, fail
from pydantic import ValidationError
from ranks_in_tests import Launch, launch
from safetensors.torch import load_file
from test_resume import directory
from worlds import CHAT, World, changed, split

import export as export_program
from amberline.core.manifests import manifest_path, read_manifest, verify
from amberline.model.weights import CheckpointWeights
from amberline.objectives.settings import HeldoutEvaluation
from amberline.recipe.export import Export
from amberline.training.checkpoint_files import complete, verified
from amberline.training.curve import read_metrics
from amberline.training.exportable import heldout_losses, note_watched, spared_steps, why_not_exportable

# 20 steps at so high a rate that the held-out loss is least after 11. Evaluations fall on steps 6, 11 and 17, and
# checkpoints on 3, 6, 9, ….
WATCHED = {"every_examples": 40, "examples": 10}
SETTINGS = changed(
    CHAT,
    epochs=4,
    learning_rate=3e-2,
    schedule={"name": "constant", "warmup_steps": 0},
    evaluation__every_examples=40,
    evaluation__examples=10,
    checkpoints__keep=1,
)


def start(
    world: World, folder: Path, export: str, settings: dict[str, Any] = SETTINGS, ranks: int = 1, **more: Any
) -> Launch:
    arguments = world.arguments("chat", folder, settings) | split(settings, export=export)
    return launch(ranks, arguments | {"heldout": world.responses} | more, folder / "log")


def trained(world: World, folder: Path, export: str, **more: Any) -> Path:
    """Train to the end. Returns the summary."""
    started = start(world, folder, export, **more)
    assert set(started.wait()) == {0}, started.text()
    return folder / "run.json"


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Summaries of finished trainings, each made once, by what is to be exported."""
    made: dict[str, Path] = {}

    def of(export: str) -> Path:
        if export not in made:
            made[export] = trained(world, tmp_path_factory.mktemp(export.replace(" ", "-")), export)
        return made[export]

    return of


def exported(world: World, run: Path, output: Path, export: str, **changes: Any) -> Path:
    heldout = changes.pop("heldout", world.responses if export == "best" else None)
    asked = {
        "dtype": "float32",
        "template": "none",
        "policy": True,
        "export": export,
        "evaluation": WATCHED if export == "best" else None,
        "training": read_manifest(run)["settings"],
    }
    export_program.main(run=run, base=world.model, heldout=heldout, settings=json.dumps(asked | changes), output=output)
    return output


def refused(*arguments: Any, **changes: Any) -> str:
    with pytest.raises(SystemExit) as stopped:
        exported(*arguments, **changes)
    return str(stopped.value)


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_while_exporting_leaves_the_training_and_no_model(
    kind: str, world: World, runs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amberline.model.export.write_safetensors", lambda *_: fail(kind))
    with pytest.raises((SystemExit, type(ERRORS[kind]()))) as stopped:
        exported(world, runs("last"), tmp_path / "model", "last")
    assert "planted" in str(stopped.value)
    if kind in {"OSError", "MemoryError"}:
        assert str(stopped.value).startswith("export: ")
    assert list(tmp_path.iterdir()) == []
    assert all(verified(checkpoint) for checkpoint in complete(directory(runs("last").parent)))
    monkeypatch.undo()
    exported(world, runs("last"), tmp_path / "model", "last")


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    weights = CheckpointWeights(checkpoint)
    return weights.read(weights.shapes())


def assert_holds(model: Path, weights: dict[str, torch.Tensor]) -> None:
    found = load_file(model / "model.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def loss_by_step(run: Path) -> dict[int, float]:
    return {
        line["step"]: line["heldout/loss"]
        for line in read_metrics(run.with_name("metrics.jsonl"))
        if "heldout/loss" in line
    }


def steps_of(run: Path) -> list[int]:
    return [each.step for each in complete(directory(run.parent))]


def test_the_last_weights(world: World, runs: Callable[[str], Path], tmp_path: Path) -> None:
    run = runs("last")
    facts = read_manifest(run)["facts"]
    assert steps_of(run) == [20]
    assert sorted(loss_by_step(run)) == [0, 6, 11, 17]
    assert facts["watched"] == {**WATCHED, "tokens": read_manifest(world.responses)["digest"]}
    assert [(each["step"], each["heldout_loss"]) for each in facts["candidates"]] == [(20, None), (20, None)]
    assert facts["candidates"][-1]["folder"] == facts["final_weights"]
    assert json.loads(run.read_text())["candidates"] == facts["candidates"]
    model = exported(world, run, tmp_path / "model", "last")
    assert_holds(model, weights_of(directory(run.parent) / "final"))
    assert verify(model)["facts"]["step"] == 20
    assert torch.load(model / "policy.pt")["step_idx"] == 36 * 4


def test_a_step_is_kept_and_exported(world: World, runs: Callable[[str], Path], tmp_path: Path) -> None:
    """As the weights of a training that ends there: its learning rate is that of the longer one."""
    run = runs("step 6")
    assert steps_of(run) == [6, 20]
    model = exported(world, run, tmp_path / "model", "step 6")
    place = tmp_path / "stopped"
    started = start(world, place, "last", checkpoints=place / "checkpoints")
    while not list(place.glob("checkpoints/*/step-00000006")) and started.processes[0].is_alive():
        pass
    started.kill()
    (other,) = place.glob("checkpoints/*/step-00000006")
    assert_holds(model, weights_of(other))
    lines = [line for line in read_metrics(run.with_name("metrics.jsonl")) if "loss" in line][:6]
    policy = torch.load(model / "policy.pt")
    assert (policy["step_idx"], policy["metrics"]) == (sum(line["examples"] for line in lines), lines[-1])
    manifest = verify(model)
    assert manifest["facts"]["step"] == 6
    assert manifest["settings"]["export"] == "step 6"
    # The last step is the final weights.
    assert_holds(exported(world, run, tmp_path / "last", "step 20"), weights_of(directory(run.parent) / "final"))


def test_the_best_is_kept_and_exported(world: World, runs: Callable[[str], Path], tmp_path: Path) -> None:
    """A checkpoint is written at each evaluation, and the last one is evaluated, too."""
    run = runs("best")
    losses = loss_by_step(run)
    assert sorted(losses) == [0, 6, 11, 17, 20]
    best = min((6, 11, 17, 20), key=lambda step: losses[step])
    assert best == 11, "or this tests little"
    assert losses[0] < losses[best], "the model that it started from is not the best of a training"
    assert steps_of(run) == [best, 20]
    facts = read_manifest(run)["facts"]
    assert [(each["step"], each["heldout_loss"]) for each in facts["candidates"]] == [
        (step, losses[step]) for step in (best, 20, 20)
    ]
    model = exported(world, run, tmp_path / "model", "best")
    assert_holds(model, weights_of(directory(run.parent) / f"step-{best:08d}"))
    manifest = verify(model)
    assert (manifest["facts"]["step"], manifest["facts"]["heldout_loss"]) == (best, losses[best])
    assert set(manifest["inputs"]) == {"run", "base", "heldout"}
    # Nothing else of the training is another than without.
    assert read_manifest(run)["digest"] == read_manifest(runs("last"))["digest"]


def test_the_best_is_the_same_after_kills(world: World, runs: Callable[[str], Path], tmp_path: Path) -> None:
    for moment in ("step-00000011", "step-00000017", "final"):
        started = start(world, tmp_path, "best", ranks=2 if moment == "step-00000017" else 1)
        while started.processes[0].is_alive() and not list(tmp_path.glob(f"checkpoints/*/{moment}*")):
            pass
        started.kill()
    run = trained(world, tmp_path, "best")
    assert steps_of(run) == steps_of(runs("best"))
    assert loss_by_step(run) == pytest.approx(loss_by_step(runs("best")), rel=1e-2)


def test_what_is_spared_on_the_way(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        folder = tmp_path / f"step-{step:08d}"
        folder.mkdir()
        (folder / "checkpoint.json").write_text(json.dumps({"step": step, "processes": 1, "plan": "p", "files": {}}))
    watched = {"every_examples": 8, "examples": 4, "tokens": "t"}
    note_watched(tmp_path, watched, 0)
    curve = [(0, 0.1), (4, 0.2), (5, 3.0), (10, 1.0), (15, float("nan")), (20, 0.5)]
    lines = [{"step": step, "heldout/loss": loss} for step, loss in curve]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(f"{json.dumps(line)}\n" for line in [{"step": 1, "loss": 1}, *lines])
    )
    assert spared_steps(tmp_path, "last", 20) == set()
    assert spared_steps(tmp_path, "step 5", 20) == {5}
    # Not 0 and 4, which have no checkpoint; and whether the newest is evaluated already does not matter.
    assert spared_steps(tmp_path, "best", 20) == {10}
    assert spared_steps(tmp_path, "best", 5) == set()
    note_watched(tmp_path, watched | {"every_examples": 16}, 12)
    assert heldout_losses(tmp_path) == {4: 0.2, 5: 3.0, 10: 1.0, 20: 0.5}
    note_watched(tmp_path, watched | {"examples": 2}, 12)
    assert heldout_losses(tmp_path) == {20: 0.5}, "losses on other examples cannot be compared"
    assert spared_steps(tmp_path, "best", 25) == {20}


def test_what_is_not_there_is_not_exported(world: World, runs: Callable[[str], Path], tmp_path: Path) -> None:
    output = tmp_path / "model"
    message = refused(world, runs("step 6"), output, "step 9")
    assert "step 9: the checkpoint of" in message
    loss = loss_by_step(runs("step 6"))[6]
    assert f"was not kept; there are: step 6 (held-out loss {loss:.4g}), step 20. Fix: " in message
    message = refused(world, runs("last"), output, "best")
    assert "was after step 11, and the checkpoint of that step was not kept; there are: step 20. Fix: " in message
    message = refused(world, runs("best"), output, "best", evaluation=WATCHED | {"every_examples": 80})
    assert "evaluated otherwise than asked: evaluation.every_examples was 40, and is 80. Fix: " in message
    message = refused(world, runs("best"), output, "best", heldout=world.conversations)
    assert "evaluated otherwise than asked: the held-out rows were others. Fix: " in message
    unwatched = trained(world, tmp_path / "unwatched", "last", heldout=None)
    assert read_manifest(unwatched)["facts"]["watched"] == {"every_examples": 0, "examples": 0, "tokens": None}
    assert "has no held-out loss after its first step" in refused(world, unwatched, output, "best")
    with pytest.raises(typer.BadParameter, match="best needs it"):
        exported(world, runs("best"), output, "best", heldout=None)
    with pytest.raises(typer.BadParameter, match="last has no use for it"):
        exported(world, runs("best"), output, "last", heldout=world.responses)
    right = {
        "dtype": "float32",
        "template": "none",
        "policy": True,
        "export": "last",
        "evaluation": None,
        "training": {},
    }
    Export.model_validate(right)
    for wrong in ({"export": "step 0"}, {"export": "first"}, {"evaluation": WATCHED}, {"export": "best"}):
        with pytest.raises(ValidationError):
            Export.model_validate(right | wrong)
    assert not output.exists()


def test_a_damaged_checkpoint_is_not_exported(world: World, runs: Callable[[str], Path], tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(runs("step 6").parent, copy)
    shard = next((directory(copy) / "step-00000006").glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert f"{shard.parent} is damaged" in refused(world, copy / "run.json", tmp_path / "model", "step 6")


def test_an_impossible_step_stops_before_the_first(world: World, tmp_path: Path) -> None:
    for export, message in {
        "step 24": "export: step 24: the training has 20 steps. Nothing was started",
        "step 7": "export: step 7: checkpoints are written every 3 steps; choose 6 or 9. Nothing was started",
    }.items():
        started = start(world, tmp_path, export)
        assert started.wait() == [1]
        assert f"amberchat: {message}" in started.text()
    started = start(world, tmp_path, "best", heldout=None)
    assert started.wait() == [1]
    assert "export: best: there are no held-out examples to evaluate on" in started.text()
    assert not list(tmp_path.glob("checkpoints/*/step-*"))


def test_a_step_that_is_done_and_gone_stops_a_training_that_goes_on(world: World, tmp_path: Path) -> None:
    started = start(world, tmp_path, "last")
    while not list(tmp_path.glob("checkpoints/*/step-00000009")) and started.processes[0].is_alive():
        pass
    started.kill()
    started = start(world, tmp_path, "step 3")
    assert started.wait() == [1]
    assert "export: step 3 is done, and its checkpoint was not kept; there are: " in started.text()


EVALUATED, UNEVALUATED = HeldoutEvaluation(**WATCHED), HeldoutEvaluation(every_examples=0, examples=0)


def test_a_plan_can_tell_before_anything_is_trained(tmp_path: Path) -> None:
    for run in (None, tmp_path / "run.json.manifest.json"):
        assert why_not_exportable(run, 20, "last", UNEVALUATED) is None
        assert why_not_exportable(run, 20, "step 40", UNEVALUATED) is None
        expected = "step 30: checkpoints are written every 20 steps; choose 20 or 40"
        assert why_not_exportable(run, 20, "step 30", UNEVALUATED) == expected
        assert str(why_not_exportable(run, 20, "step 3", EVALUATED)).endswith("every 20 steps; choose 20")
        assert why_not_exportable(run, 20, "best", EVALUATED) is None
        assert "best: it is the checkpoint with" in str(why_not_exportable(run, 20, "best", UNEVALUATED))


def test_a_plan_can_tell_of_what_is_trained(runs: Callable[[str], Path], tmp_path: Path) -> None:
    def why(run: Path, export: str, evaluation: HeldoutEvaluation = EVALUATED) -> str | None:
        return why_not_exportable(manifest_path(run), 3, export, evaluation)

    assert why(runs("step 6"), "last") is None
    assert why(runs("step 6"), "step 6") is None
    assert why(runs("step 6"), "step 20") is None
    assert "was not kept; there are: step 6 (" in str(why(runs("step 6"), "step 9"))
    assert why(runs("best"), "best") is None
    assert "evaluated otherwise" in str(why(runs("best"), "best", UNEVALUATED))
    assert "was not kept" in str(why(runs("last"), "best"))
    copy = tmp_path / "run"
    shutil.copytree(runs("step 6").parent, copy)
    shutil.rmtree(directory(copy) / "step-00000006")
    assert "was not kept; there are: step 20" in str(why(copy / "run.json", "step 6"))
    shutil.rmtree(directory(copy))  # it is trained again
    assert why(copy / "run.json", "step 6") is None
