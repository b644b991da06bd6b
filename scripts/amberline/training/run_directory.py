"""The run directory: the folder that holds a run's checkpoints, its curve and its final weights.

It is named by the digest of all that determines the weights, so the same command finds what an interrupted run left,
and a run never continues by itself from what other settings, data, code or packages made.

Where only code or packages have changed, directly or through the bytes of an input that they made, work that is done
is not thrown away in silence. A finished run is stale: the recipe says whether it is trained again. An unfinished run
stops before its first step, and a person says whether it goes on.
"""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from amberline.core.code import SCRIPTS
from amberline.core.digests import value_digest
from amberline.core.files import whole_file
from amberline.core.locks import Lock
from amberline.core.settings import leaves
from amberline.training.checkpoint_files import MARKER, complete, read_marker, verified

REQUEUE = 75  # EX_TEMPFAIL: the run was asked to stop, has saved its state, and goes on when it is started again


class RunDirectoryError(Exception):
    """The run directory holds a run that cannot be used as it is."""


@dataclass(frozen=True)
class Identity:
    """All that determines the weights of a run."""

    settings: Mapping[str, Any]  # those that change the result
    inputs: Mapping[str, str]  # digest of the content of each
    code: str  # digest of the program's syntax trees
    packages: Mapping[str, str]  # versions of those that can change bytes
    recipes: Mapping[str, str] = field(compare=False)  # what each input was asked to be, whatever code made it
    earlier: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)  # what made its first steps, if not this

    @property
    def digest(self) -> str:
        """sha256, whatever the order of keys."""
        determining = {key: value for key, value in self.to_json().items() if key not in {"recipes", "earlier"}}
        return value_digest(determining)

    def made_with(self) -> dict[str, Any]:
        """What is not asked for in the recipe, but determines the weights all the same."""
        return {"code": self.code, "packages": dict(self.packages), "inputs": dict(self.inputs)}

    def asks_the_same(self, other: "Identity") -> bool:
        """Whether the two differ in code and packages alone, and in bytes that these have made."""
        return self.settings == other.settings and all(
            self.recipes.get(name) == other.recipes.get(name) or self.inputs[name] == other.inputs.get(name)
            for name in self.inputs
        )

    def to_json(self) -> dict[str, Any]:
        """As `identity.json` has it."""
        values = {"settings": self.settings, **self.made_with(), "recipes": dict(self.recipes)}
        return {**values, "earlier": list(self.earlier)} if self.earlier else values

    @classmethod
    def read(cls, folder: Path) -> "Identity | None":
        """The identity of the run in a folder; None if there is none that can be read."""
        try:
            values = json.loads((folder / "identity.json").read_text(encoding="utf-8"))
            return cls(**{**values, "earlier": tuple(values.get("earlier", ()))})
        except (OSError, ValueError, TypeError, AttributeError):
            return None


@dataclass(frozen=True)
class RunDirectory:
    """A run directory. `identity` is that of the run that is asked for."""

    folder: Path
    stage: str
    identity: Identity
    kept: bool = False  # the run in it was made with other code or packages, and is used all the same

    @property
    def final(self) -> Path:
        """Where the final weights are, when the run is complete."""
        return self.folder / "final"

    @property
    def metrics(self) -> Path:
        """The curve."""
        return self.folder / "metrics.jsonl"

    @property
    def requeue(self) -> Path:
        """There while the stage waits to be started again after a signal. torchrun does not pass on exit codes."""
        return self.folder.parent / f"{self.stage}.requeue.json"


def run_directory_of(checkpoints: Path, stage: str, identity: Identity) -> RunDirectory:
    """The run directory of a run."""
    return RunDirectory(checkpoints / f"{stage}-{identity.digest[:16]}", stage, identity)


def enter(directory: RunDirectory, stale: str) -> tuple[RunDirectory, list[str]]:
    """Find or make the run directory and take its lock; return it with sentences for the log.

    `stale` says what becomes of a finished run that was made with other code or packages: "ask", "retrain" or "keep",
    which returns the directory of that run. The caller releases the lock. Raises LockError if another process writes
    there, and RunDirectoryError if the finished run is stale and `stale` is "ask", or if there is an unfinished run
    that was made with other code or packages, and nobody has said yet whether it goes on.
    """
    directory.requeue.unlink(missing_ok=True)
    others = _others(directory)
    elsewhere = _finished_elsewhere(directory, others, stale)
    if elsewhere is None and not (directory.folder / "identity.json").is_file():
        elsewhere = _instead_of_a_new_one(directory, others, stale)
    if elsewhere is not None:
        return elsewhere
    directory.folder.mkdir(parents=True, exist_ok=True)
    notes = _lock(directory)
    known = Identity.read(directory.folder) is not None
    if not known and (complete(directory.folder) or directory.final.exists()):
        release(directory)
        raise RunDirectoryError(
            f"{directory.folder} holds checkpoints, and its identity.json is missing or damaged, so that nobody knows "
            f"what made them. Fix: {_unfinished_run()} discard {shlex.quote(str(directory.folder))}"
        )
    _remove_remains(directory.folder)
    if known:
        _mark_as_used(directory.folder)
        return directory, [*notes, f"continuing in {directory.folder}"]
    _write_identity(directory.folder, directory.identity)
    return directory, [*notes, f"starting fresh in {directory.folder}{_why_not_another(directory)}"]


def _finished_elsewhere(
    directory: RunDirectory, others: list[RunDirectory], stale: str
) -> tuple[RunDirectory, list[str]] | None:
    """A finished run that is used where it is: the same one under another name, or one that is to be kept."""
    if read_marker(directory.final) is not None:
        return None
    finished = [other for other in others if read_marker(other.final) is not None]
    if same := [other for other in finished if other.identity == directory.identity]:
        return _use(same[0], directory)
    return _keep(finished[0], directory) if finished and stale == "keep" else None


def _instead_of_a_new_one(
    directory: RunDirectory, others: list[RunDirectory], stale: str
) -> tuple[RunDirectory, list[str]] | None:
    """A run that is taken over or kept where there is none of this name; raises RunDirectoryError as `enter` does."""
    finished = [other for other in others if read_marker(other.final) is not None]
    if same := [other for other in others if other.identity == directory.identity]:
        return _continue_in(same[0], directory)
    kept = [other for other in finished if directory.identity.digest in kept_for(other.folder)]
    if kept and stale == "ask":
        return _keep(kept[0], directory)
    unfinished = [other for other in others if other not in finished and complete(other.folder)]
    for other in unfinished:
        if _may_continue(other, directory.identity):
            return _continue_in(other, directory)
    if unfinished:
        _refuse_unfinished(unfinished[0], directory.identity)
    if finished and stale == "ask":
        _refuse_stale(finished[0], directory)
    return None


def release(directory: RunDirectory) -> None:
    """Release the lock of a run directory."""
    Lock(directory.folder).release()


def kept_for(folder: Path) -> list[str]:
    """Digests of the identities for which the finished run in a folder is used, though code or packages changed."""
    try:
        digests = json.loads((folder / "kept.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return digests if isinstance(digests, list) else []


def keep_for(folder: Path, identity: Identity) -> None:
    """Note that the finished run in a folder is used for an identity that is not its own."""
    if identity.digest not in kept_for(folder):
        _write_json(folder / "kept.json", sorted({*kept_for(folder), identity.digest}))


def allow_to_continue(folder: Path) -> int:
    """Let the unfinished run in a folder go on with the code and packages that it was last refused for.

    Returns the steps that are done. Raises RunDirectoryError.
    """
    if read_marker(folder / "final") is not None:
        raise RunDirectoryError(f"{folder} holds a finished run: there is nothing to continue")
    if not (checkpoints := complete(folder)):
        raise RunDirectoryError(f"{folder} holds no complete checkpoint: there is nothing to continue. Fix: discard it")
    try:
        asked = json.loads((folder / "refused.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise RunDirectoryError(
            f"{folder} holds no run that was refused because its code or packages changed: there is nothing to allow"
        ) from None
    _write_json(folder / "accepted.json", asked)
    return checkpoints[-1].step


def discard(folder: Path) -> None:
    """Delete an unfinished run. Raises RunDirectoryError if it is finished, in use, or none at all."""
    known = Identity.read(folder) is not None
    holds_a_run = known or any(folder.glob("step-*")) or (folder / "final").exists()
    if not holds_a_run or (known and read_marker(folder / "final") is not None):
        raise RunDirectoryError(f"{folder} holds no unfinished run: nothing was deleted")
    Lock(folder).acquire()
    shutil.rmtree(folder)


def differences(one: Identity, other: Identity) -> list[str]:
    """Names of what differs: `code`, `packages.torch`, `inputs.tokens`, `settings.learning_rate`."""
    ours, theirs = (dict(leaves({"settings": each.settings, **each.made_with()})) for each in (one, other))
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def _others(directory: RunDirectory) -> list[RunDirectory]:
    """Runs that were asked to be the same, newest first. Their names are for people, and do not matter."""
    found = []
    for file in directory.folder.parent.glob("*-*/identity.json"):
        identity = Identity.read(file.parent)
        if identity is not None and directory.identity.asks_the_same(identity):
            found.append((file.stat().st_mtime, RunDirectory(file.parent, directory.stage, identity)))
    return [other for _, other in sorted(found, key=lambda each: each[0], reverse=True)]


def _use(other: RunDirectory, directory: RunDirectory) -> tuple[RunDirectory, list[str]]:
    """Use the finished run where it is: a summary that was written under its name may say where its weights are."""
    used = replace(directory, folder=other.folder)
    _mark_as_used(other.folder)
    return used, [*_lock(used), f"the same run is finished already: {other.folder}"]


def _keep(other: RunDirectory, directory: RunDirectory) -> tuple[RunDirectory, list[str]]:
    kept = replace(directory, folder=other.folder, kept=True)
    keep_for(other.folder, directory.identity)
    _mark_as_used(other.folder)
    return kept, [*_lock(kept), f"kept, though code or packages have changed: {other.folder}"]


def _may_continue(other: RunDirectory, identity: Identity) -> bool:
    try:
        accepted = json.loads((other.folder / "accepted.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(accepted == {"digest": identity.digest})


def _continue_in(other: RunDirectory, directory: RunDirectory) -> tuple[RunDirectory, list[str]]:
    """Take over a run: it gets our identity, which remembers the one that it had, and then our name."""
    notes = _lock(other)
    if other.identity == directory.identity:
        notes.append(f"continuing in {directory.folder}, which was {other.folder.name}")
    else:
        # The one that will be loaded: a damaged one is set aside then.
        done = next((each.step for each in complete(other.folder)[::-1] if verified(each)), 0)
        before = [{**other.identity.made_with(), "until_step": done}] if done else []
        ours = Identity(**{**directory.identity.to_json(), "earlier": (*other.identity.earlier, *before)})
        _write_identity(other.folder, ours)
        changed = ", ".join(differences(directory.identity, other.identity))
        notes.append(f"continuing in {directory.folder} after step {done}, as allowed, with other {changed}")
    other.folder.replace(directory.folder)
    _remove_remains(directory.folder)
    _mark_as_used(directory.folder)
    return directory, notes


def _refuse_unfinished(other: RunDirectory, identity: Identity) -> None:
    _write_json(other.folder / "refused.json", {"digest": identity.digest})
    checkpoints = complete(other.folder)
    program = _unfinished_run()
    folder = shlex.quote(str(other.folder))
    raise RunDirectoryError(
        f"{other.folder} is an unfinished run of this training, {checkpoints[-1].step:,} steps done, that was made "
        f"with other {', '.join(differences(identity, other.identity))}. Nothing was started.\n"
        "Fix: type one of these two commands, and then the same command as before.\n"
        "  To continue it with what is there now; the manifest will say from which step:\n"
        f"    {program} continue {folder}\n"
        f"  To delete its {len(checkpoints)} checkpoints and start afresh:\n"
        f"    {program} discard {folder}"
    )


def _refuse_stale(other: RunDirectory, directory: RunDirectory) -> None:
    raise RunDirectoryError(
        f"{other.folder} is this training, finished, and it was made with other "
        f"{', '.join(differences(directory.identity, other.identity))}. Nothing was started.\n"
        "Fix: add one of these to the same command.\n"
        "  To train again:                                                --config stale=retrain\n"
        "  To use it as it is; manifest, card and report will say so:     --config stale=keep"
    )


def _unfinished_run() -> str:
    """The program that says what becomes of an unfinished run, as a person would type it."""
    return f"{_python()} {shlex.quote(os.path.relpath(SCRIPTS / 'unfinished_run.py'))}"


def _python() -> str:
    """The Python that runs this, as a person would type it."""
    here = os.path.relpath(sys.executable)
    return shlex.quote(sys.executable if here.startswith("..") else here)


def _mark_as_used(folder: Path) -> None:
    """Make this the newest run; what was asked and allowed before it was entered is settled."""
    (folder / "identity.json").touch()
    for file in ("refused.json", "accepted.json"):
        (folder / file).unlink(missing_ok=True)


def _remove_remains(folder: Path) -> None:
    """Delete checkpoints that a killed run had begun to write, or to delete."""
    begun = [each for each in folder.glob("step-*") if not (each / MARKER).exists()]
    for remains in {*folder.glob("*.partial-*"), *begun}:
        shutil.rmtree(remains, ignore_errors=True)


def _lock(directory: RunDirectory) -> list[str]:
    note = Lock(directory.folder).acquire()
    return [note] if note else []


def _write_identity(folder: Path, identity: Identity) -> None:
    _write_json(folder / "identity.json", identity.to_json())


def _write_json(path: Path, value: Any) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _why_not_another(directory: RunDirectory) -> str:
    """How the newest other run of this stage differs, for someone who expected it to be continued."""
    # Exactly: the name of one stage may be the beginning of another's.
    is_ours = re.compile(re.escape(directory.stage) + "-[0-9a-f]{16}").fullmatch
    found = [file.parent for file in directory.folder.parent.glob("*-*/identity.json")]
    others = [folder for folder in found if is_ours(folder.name) and folder != directory.folder]
    if not others:
        return ""
    newest = max(others, key=lambda folder: (folder / "identity.json").stat().st_mtime)
    theirs = Identity.read(newest)
    if theirs is None:
        return f"; what is in {newest} cannot be read"
    return f", because {', '.join(differences(directory.identity, theirs))} changed since {newest.name}"
