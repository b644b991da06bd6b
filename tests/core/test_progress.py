"""Progress on a terminal and in a log."""

import io

import pytest

from amberline.core import progress


class Terminal(io.StringIO):
    """A stream that takes itself for a terminal."""

    def isatty(self) -> bool:
        return True


def test_where_no_terminal_is_each_state_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(progress, "EVERY", 0)
    for _ in progress.progress(range(3), desc="reading", unit=" rows"):
        pass
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert len(lines) > 1
    assert all(line.startswith("reading: ") and line.endswith("]\n") for line in lines)
    assert lines[-1].startswith("reading: 100%")


def test_there_short_work_leaves_no_line(capsys) -> None:
    assert list(progress.progress(range(3))) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_on_a_terminal_it_is_drawn_over(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    list(progress.progress(range(3), desc="reading"))
    assert terminal.getvalue().count("\r") > 1
