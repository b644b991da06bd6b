"""The run directory: which run it belongs to, what becomes of runs of other code, and who may write there."""

import json
from pathlib import Path
from typing import Any

import pytest

from amberline.core.locks import LockError
from amberline.training.run_directory import (
    Identity,
    RunDirectory,
    RunDirectoryError,
    allow_to_continue,
    discard,
    enter,
    release,
    run_directory_of,
)

SETTINGS = {"learning_rate": 1e-3, "optimizer": {"name": "adamw"}}


def identity(**changes: Any) -> Identity:
    """Of a run, with some of it changed. The recipe of the tokens is what they were asked to be."""
    base: dict[str, Any] = {
        "settings": SETTINGS,
        "inputs": {"model": "m", "tokens": "t"},
        "code": "c",
        "packages": {"torch": "1"},
        "recipes": {"model": "rm", "tokens": "rt"},
    }
    return Identity(**(base | changes))


def directory(tmp_path: Path, stage: str = "sft", **changes: Any) -> RunDirectory:
    return run_directory_of(tmp_path, stage, identity(**changes))


def opened(wanted: RunDirectory, stale: str = "ask") -> RunDirectory:
    """Enter a run directory and leave it."""
    found, _ = enter(wanted, stale)
    release(found)
    return found


def said(wanted: RunDirectory) -> list[str]:
    """What is said when a run directory is entered."""
    found, notes = enter(wanted, "ask")
    release(found)
    return notes


def with_checkpoints(wanted: RunDirectory, *steps: int, finished: bool = False, stale: str = "ask") -> RunDirectory:
    """What a training leaves behind: empty checkpoints after these steps, and final weights if it is finished."""
    opened(wanted, stale)
    for name, step in [(f"step-{step:08d}", step) for step in steps] + ([("final", steps[-1])] if finished else []):
        folder = wanted.folder / name
        folder.mkdir()
        (folder / "checkpoint.json").write_text(json.dumps({"step": step, "processes": 1, "plan": "p", "files": {}}))
    return wanted


def test_the_same_run_has_the_same_directory(tmp_path: Path) -> None:
    shuffled = identity(settings=dict(reversed(SETTINGS.items())))
    assert run_directory_of(tmp_path, "sft", shuffled) == directory(tmp_path)
    for change in (
        {"settings": {"learning_rate": 2e-3}},
        {"inputs": {"model": "m", "tokens": "other"}},
        {"code": "d"},
        {"packages": {"torch": "2"}},
    ):
        assert directory(tmp_path, **change).folder != directory(tmp_path).folder, change


def test_other_recipes_of_the_same_bytes_are_the_same_run(tmp_path: Path) -> None:
    assert directory(tmp_path, recipes={"model": "x", "tokens": "y"}).folder == directory(tmp_path).folder


def test_a_fresh_start_says_what_changed(tmp_path: Path) -> None:
    first = directory(tmp_path)
    assert said(first) == [f"starting fresh in {first.folder}"]
    assert said(first) == [f"continuing in {first.folder}"]
    settings = {"learning_rate": 2e-3, "optimizer": {"name": "rmsprop"}}
    other = directory(tmp_path, settings=settings, code="d")
    changes = "code, settings.learning_rate, settings.optimizer.name"
    assert said(other) == [f"starting fresh in {other.folder}, because {changes} changed since {first.folder.name}"]
    another_stage = directory(tmp_path, "dpo", settings={"beta": 0.1})
    assert said(another_stage) == [f"starting fresh in {another_stage.folder}"]


CHANGED = [{"code": "d"}, {"packages": {"torch": "2"}}, {"inputs": {"model": "m", "tokens": "other bytes"}}]


@pytest.mark.parametrize("change", CHANGED, ids=["code", "package", "bytes of an input of the same recipe"])
@pytest.mark.parametrize("stale", ["ask", "retrain"])
def test_an_unfinished_run_of_other_code_stops(tmp_path: Path, change: dict[str, Any], stale: str) -> None:
    old, new = with_checkpoints(directory(tmp_path), 20, 40), directory(tmp_path, **change)
    with pytest.raises(RunDirectoryError) as refused:
        enter(new, stale)
    message = str(refused.value)
    assert f"{old.folder} is an unfinished run of this training, 40 steps done" in message
    assert f"scripts/unfinished_run.py continue {old.folder}" in message
    assert f"scripts/unfinished_run.py discard {old.folder}" in message
    assert not new.folder.exists()


@pytest.mark.parametrize("change", CHANGED, ids=["code", "package", "bytes of an input of the same recipe"])
def test_it_goes_on_when_that_is_allowed(tmp_path: Path, change: dict[str, Any]) -> None:
    old, new = with_checkpoints(directory(tmp_path), 20, 40), directory(tmp_path, **change)
    with pytest.raises(RunDirectoryError):
        enter(new, "ask")
    assert allow_to_continue(old.folder) == 40
    found, notes = enter(new, "ask")
    release(found)
    assert found == new
    assert not old.folder.exists()
    assert f"continuing in {new.folder} after step 40, as allowed" in notes[-1]
    known = Identity.read(new.folder)
    assert known == new.identity
    assert known.earlier == ({**old.identity.made_with(), "until_step": 40},)
    # From then on it is the run of the new code, and so on for a third one.
    assert opened(new) == new
    third = directory(tmp_path, **(change | {"settings": SETTINGS, "packages": {"torch": "3"}}))
    with pytest.raises(RunDirectoryError):
        enter(third, "ask")
    allow_to_continue(new.folder)
    opened(third)
    assert [part["until_step"] for part in Identity.read(third.folder).earlier] == [40, 40]


def test_a_run_is_found_by_its_digest_alone(tmp_path: Path) -> None:
    """The name in front is for people: renaming a training trains nothing."""
    old = with_checkpoints(directory(tmp_path), 20)
    renamed = directory(tmp_path, "another-name")
    assert said(renamed) == [f"continuing in {renamed.folder}, which was {old.folder.name}"]
    assert [folder.name for folder in tmp_path.iterdir()] == [renamed.folder.name]
    assert opened(renamed) == renamed


def test_a_finished_run_is_used_where_it_is_under_another_name(tmp_path: Path) -> None:
    """Another training has it in its summary."""
    old = with_checkpoints(directory(tmp_path), 20, finished=True)
    renamed = directory(tmp_path, "another-name")
    assert said(renamed) == [f"the same run is finished already: {old.folder}"]
    for stale in ("ask", "retrain", "keep"):
        used = opened(renamed, stale)
        assert (used.folder, used.stage, used.identity) == (old.folder, "another-name", old.identity)
        assert not used.kept
    assert [folder.name for folder in tmp_path.iterdir()] == [old.folder.name]
    # Also where this one was begun before the other was finished, and even if a run of other code could be kept.
    begun = directory(tmp_path, "another-name")
    begun.folder.mkdir()
    (begun.folder / "identity.json").write_text(json.dumps(begun.identity.to_json()))
    with_checkpoints(directory(tmp_path, code="d"), 20, finished=True, stale="retrain")
    assert opened(renamed, "keep").folder == old.folder


def test_a_name_that_begins_another_is_not_mixed_up_with_it(tmp_path: Path) -> None:
    opened(directory(tmp_path, "safe-sft", settings={"beta": 0.1}))
    one = directory(tmp_path, "safe", settings={"beta": 0.2})
    assert said(one) == [f"starting fresh in {one.folder}"]
    other = directory(tmp_path, "safe", settings={"beta": 0.3})
    assert said(other) == [f"starting fresh in {other.folder}, because settings.beta changed since {one.folder.name}"]


def test_a_permission_is_for_the_code_that_was_refused(tmp_path: Path) -> None:
    old = with_checkpoints(directory(tmp_path), 20)
    with pytest.raises(RunDirectoryError):
        enter(directory(tmp_path, code="d"), "ask")
    allow_to_continue(old.folder)
    with pytest.raises(RunDirectoryError, match="unfinished run"):
        enter(directory(tmp_path, code="e"), "ask")


def test_a_kill_while_taking_over_loses_nothing(tmp_path: Path) -> None:
    """The new identity is written, and the directory has its old name still."""
    old, new = with_checkpoints(directory(tmp_path), 20), directory(tmp_path, code="d")
    (old.folder / "identity.json").write_text(json.dumps({**new.identity.to_json(), "earlier": [{"until_step": 20}]}))
    opened(new)
    assert Identity.read(new.folder).earlier == ({"until_step": 20},)
    assert not old.folder.exists()


def test_it_starts_afresh_when_it_is_discarded(tmp_path: Path) -> None:
    old, new = with_checkpoints(directory(tmp_path), 20), directory(tmp_path, code="d")
    with pytest.raises(RunDirectoryError):
        enter(new, "ask")
    discard(old.folder)
    assert not old.folder.exists()
    assert opened(new) == new


def test_what_is_finished_in_use_or_no_run_is_not_discarded(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="nothing was deleted"):
        discard(with_checkpoints(directory(tmp_path), 20, finished=True).folder)
    with pytest.raises(RunDirectoryError, match="nothing was deleted"):
        discard(tmp_path / "anything")
    used, _ = enter(directory(tmp_path, code="d"), "retrain")
    with pytest.raises(LockError, match="is in use by process"):
        discard(used.folder)
    with pytest.raises(RunDirectoryError, match="no complete checkpoint"):
        allow_to_continue(used.folder)


def test_a_run_without_a_checkpoint_is_no_reason_to_ask(tmp_path: Path) -> None:
    opened(directory(tmp_path))
    assert opened(directory(tmp_path, code="d")) == directory(tmp_path, code="d")


@pytest.mark.parametrize("change", CHANGED, ids=["code", "package", "bytes of an input of the same recipe"])
def test_a_finished_run_of_other_code_is_stale(tmp_path: Path, change: dict[str, Any]) -> None:
    old, new = with_checkpoints(directory(tmp_path), 20, finished=True), directory(tmp_path, **change)
    with pytest.raises(RunDirectoryError) as refused:
        enter(new, "ask")
    assert "--config stale=retrain" in str(refused.value)
    assert "--config stale=keep" in str(refused.value)
    kept = opened(new, "keep")
    assert (kept.folder, kept.kept, kept.identity) == (old.folder, True, new.identity)
    assert opened(new, "retrain") == new


def test_what_is_kept_stays_kept_and_is_the_run_that_was_in_use(tmp_path: Path) -> None:
    first = with_checkpoints(directory(tmp_path), 20, finished=True)
    with_checkpoints(directory(tmp_path, code="d"), 20, finished=True, stale="retrain")
    opened(first)  # in use again, after the code was edited back
    new = directory(tmp_path, code="e")
    assert opened(new, "keep").folder == first.folder
    # It is settled, whatever else runs.
    assert opened(new, "ask").folder == first.folder
    with pytest.raises(RunDirectoryError, match="--config stale=keep"):
        enter(directory(tmp_path, code="f"), "ask")


def test_a_training_that_was_begun_again_can_be_left_for_the_finished_one(tmp_path: Path) -> None:
    old = with_checkpoints(directory(tmp_path), 20, finished=True)
    new = directory(tmp_path, code="d")
    opened(new, "retrain")
    assert opened(new, "keep").folder == old.folder
    assert opened(new, "retrain").folder == new.folder


def test_checkpoints_that_nobody_knows_the_origin_of_are_not_continued(tmp_path: Path) -> None:
    run = with_checkpoints(directory(tmp_path), 20)
    (run.folder / "identity.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"identity\.json is missing or damaged.*discard"):
        enter(run, "ask")
    discard(run.folder)
    assert opened(run) == run


def test_a_permission_ends_with_the_next_start(tmp_path: Path) -> None:
    old = with_checkpoints(directory(tmp_path), 20)
    new = directory(tmp_path, code="d")
    with pytest.raises(RunDirectoryError):
        enter(new, "ask")
    allow_to_continue(old.folder)
    opened(old)  # the code was edited back
    with pytest.raises(RunDirectoryError, match="unfinished run"):
        enter(new, "ask")


def test_only_an_unfinished_run_with_a_checkpoint_can_be_continued(tmp_path: Path) -> None:
    finished = with_checkpoints(directory(tmp_path), 20, finished=True)
    with pytest.raises(RunDirectoryError, match="holds a finished run"):
        allow_to_continue(finished.folder)
    opened(directory(tmp_path, code="d"), "retrain")
    with pytest.raises(RunDirectoryError, match="no complete checkpoint"):
        allow_to_continue(directory(tmp_path, code="d").folder)


def test_a_damaged_checkpoint_does_not_count_as_done(tmp_path: Path) -> None:
    old, new = with_checkpoints(directory(tmp_path), 20, 40), directory(tmp_path, code="d")
    marker = old.folder / "step-00000040/checkpoint.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "files": {"gone": "0"}}))
    with pytest.raises(RunDirectoryError):
        enter(new, "ask")
    allow_to_continue(old.folder)
    opened(new)
    assert [part["until_step"] for part in Identity.read(new.folder).earlier] == [20]


def test_another_setting_or_input_is_no_question(tmp_path: Path) -> None:
    with_checkpoints(directory(tmp_path), 20, finished=True)
    for change in (
        {"settings": {"learning_rate": 2e-3}, "code": "d"},
        {"inputs": {"model": "m", "tokens": "u"}, "recipes": {"model": "rm", "tokens": "ru"}, "code": "d"},
    ):
        new = directory(tmp_path, **change)
        assert opened(new) == new, change
