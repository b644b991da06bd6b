"""Copies of tokens on a node's own disk."""

import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from amberline.cluster import scratch
from amberline.cluster.scratch import ScratchError, copies, node_folder
from amberline.core.manifests import ManifestError, write_manifest

ROOT = Path(__file__).parents[2]


def made(folder: Path, content: str) -> Path:
    """A folder of two files with its manifest."""
    folder.mkdir(parents=True)
    files = [folder / "shard-00000.arrow", folder / "shard-00001.arrow"]
    for file in files:
        file.write_text(f"{content} in {file.name}")
    write_manifest(folder, kind="tokens", files=files, inputs={}, settings={}, facts={})
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def folders(tmp_path):
    return [made(tmp_path / "results/tokens", "training"), made(tmp_path / "results/heldout", "test")]


@pytest.fixture
def disk(tmp_path):
    return tmp_path / "disk"


def left_on(disk: Path) -> list[Path]:
    return [path for path in disk.rglob("*") if path.name != scratch.LOCK and not path.is_dir()]


def test_copies_are_the_same_and_end_with_the_job(folders, disk):
    with copies(folders, disk) as kept:
        assert [content(copy) for copy in kept] == [content(folder) for folder in folders]
        assert all(disk in copy.parents for copy in kept)
    assert not left_on(disk)


def test_jobs_on_a_node_share_a_copy_until_the_last_one_ends(folders, disk):
    with copies(folders, disk) as second_to_end:
        file = second_to_end[0] / "shard-00000.arrow"
        before = file.stat()
        with copies(folders[:1], disk) as kept:
            assert kept == second_to_end[:1]
        assert file.stat() == before  # neither written again, nor removed
        assert second_to_end[1].is_dir()
    assert not left_on(disk)


def killed_while_copies_were_there(folders: list[Path], disk: Path) -> None:
    """A job that cannot tidy up."""
    program = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
from pathlib import Path
from amberline.cluster.scratch import copies
with copies([Path(name) for name in sys.argv[2:]], Path(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", program, disk, *folders]).returncode == -9


def test_what_a_killed_job_left_is_used_if_it_is_good_and_removed_if_nobody_wants_it(folders, disk):
    killed_while_copies_were_there(folders, disk)
    left = {path: path.stat().st_ino for path in left_on(disk)}
    with copies(folders[:1], disk) as [copy]:
        assert {path: path.stat().st_ino for path in copy.iterdir()}.items() <= left.items()
        assert [path for path in copy.parent.iterdir() if path.is_dir()] == [copy]
    assert not left_on(disk)


def test_what_a_killed_job_left_damaged_is_made_anew(folders, disk):
    killed_while_copies_were_there(folders, disk)
    next(disk.rglob("shard-00001.arrow")).write_text("something else")
    with copies(folders, disk) as kept:
        assert [content(copy) for copy in kept] == [content(folder) for folder in folders]


def test_too_little_room_is_said_in_gigabytes(folders, disk, monkeypatch):
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(10))
    with pytest.raises(ScratchError, match=r"disk/.* has 0\.0 GB free, and the copies need 0\.0 GB"):
        copies(folders, disk).__enter__()
    assert not left_on(disk)


def test_a_damaged_folder_is_not_copied(folders, disk):
    (folders[0] / "shard-00001.arrow").write_text("something else")
    with pytest.raises(ManifestError, match="make that stage again"):
        copies(folders, disk).__enter__()
    assert not left_on(disk)


def test_variables_are_those_of_the_node(monkeypatch):
    monkeypatch.setenv("LOCAL_DISK", "/scratch/job.5")
    assert node_folder("$LOCAL_DISK/a") == Path("/scratch/job.5/a")
    with pytest.raises(ScratchError, match=r"slurm/site\.yaml"):
        node_folder("$NO_SUCH_VARIABLE/a")


def near(disk: str, folders: list[Path], command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command, which sees the token folders as $2 and $4."""
    arguments = ["--tokens", folders[0], "--heldout", folders[1], "--model", folders[0].parent]
    return subprocess.run(
        [
            *(sys.executable, "scripts/with_tokens_nearby.py", "--scratch", disk, "--"),
            *("sh", "-c", command, "sh", *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_a_command_reads_the_copies(folders, disk):
    done = near(str(disk), folders, 'cat "$2/shard-00000.arrow" "$4/shard-00000.arrow"; echo; echo "$2:$6"; exit 75')
    assert done.returncode == 75
    read, paths = done.stdout.splitlines()
    assert read == "training in shard-00000.arrowtest in shard-00000.arrow"
    tokens, model = paths.split(":")
    assert tokens.startswith(str(disk))
    assert model == str(folders[0].parent)
    assert not left_on(disk)


@pytest.mark.parametrize("disk_name", ["$NO_SUCH_VARIABLE", "/proc/no"])
def test_without_copies_it_reads_the_folders_and_warns(folders, disk_name):
    done = near(disk_name, folders, 'echo "$2"')
    assert done.returncode == 0
    assert done.stdout == f"{folders[0]}\n"
    assert "warning: tokens are read where they are" in done.stderr
    assert disk_name in done.stderr


def test_the_copies_are_closed_to_others_and_nothing_lies_beside_them(folders, disk):
    disk.mkdir(mode=0o777)
    home = disk / f"amberline-tokens-{os.getuid()}"
    home.mkdir(mode=0o755)
    with copies(folders, disk):
        assert home.stat().st_mode & 0o777 == 0o700
        assert list(disk.iterdir()) == [home]


@pytest.mark.parametrize("forged", ["writable", "link", "another's"])
def test_a_folder_of_copies_that_others_may_have_made_is_refused(folders, disk, tmp_path, monkeypatch, forged):
    home = disk / f"amberline-tokens-{os.getuid()}"
    disk.mkdir()
    if forged == "link":
        (tmp_path / "elsewhere").mkdir()
        home.symlink_to(tmp_path / "elsewhere")
    else:
        home.mkdir()
        home.chmod(0o777 if forged == "writable" else 0o700)
    if forged == "another's":
        monkeypatch.setattr(os, "getuid", lambda: int(home.name.split("-")[-1]) + 1)
        home.rename(disk / f"amberline-tokens-{os.getuid()}")
    with pytest.raises(ScratchError, match=r"others own it or may write to it.* Fix: "), copies(folders, disk):
        pass
