"""Layers that were to be compiled, and were not: it is said, whatever the reason."""

from functools import partial
from pathlib import Path

import pytest
import torch
from alone import train_alone
from cpu_kernels import efficient_attention_on_cpu
from worlds import CHAT, World, changed

from amberline.data.tokens import open_tokens
from amberline.model.attention import Kind
from amberline.model.checkpointing import Level
from amberline.objectives.sft import SFT, SFTSettings

PIECES = "compiled only in pieces, "
NOT_AT_ALL = "compiled not at all (Skip calling `torch.compiler.disable()`d function). Fix: set attention"


@pytest.mark.parametrize(
    ("attention", "level", "said"),
    [
        ("efficient", "none", None),
        ("efficient", "selective", None),
        ("efficient", "full", None),
        ("sdpa", "none", PIECES),
        ("sdpa", "selective", NOT_AT_ALL),
        ("sdpa", "full", NOT_AT_ALL),
    ],
)
def test_it_is_said_after_the_first_step(
    attention: Kind,
    level: Level,
    said: str | None,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`autotune` turns compilation off where it knows of it; the loop would see it all the same."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    settings = SFTSettings(**changed(CHAT, epochs=1))
    objective = SFT(settings, open_tokens(world.conversations))
    with efficient_attention_on_cpu():
        train_alone(tmp_path, world.model, objective, settings, attention=attention, level=level, compile=True)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING: compile")]
    assert len(warnings) == (0 if said is None else 1)
    if said is not None:
        assert said in warnings[0]
