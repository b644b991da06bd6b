"""The benchmark that takes a training step apart counts everything, once, and where it belongs."""

import sys
from functools import partial
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import training_profile as profile
import workload


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_step_is_taken_apart(stage, monkeypatch):
    small = partial(workload.write_model, hidden_size=64, intermediate_size=96, num_hidden_layers=1)
    monkeypatch.setattr(workload, "write_model", small)
    monkeypatch.setitem(profile.EXAMPLES, stage, 1)
    products = []
    monkeypatch.setattr(profile, "alone", lambda found, repeats: products.append(found) or 0.0)
    found = profile.measure(stage, repeats=1)
    assert list(found["shares"]) == list(profile.KINDS)
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert all(share > 0 for kind, share in found["shares"].items() if kind != profile.BETWEEN)
    # Of seven matrices in a layer: forward, and backward for its input and for itself. The head's are counted apart.
    of_layers = {
        shapes: count for shapes, count in products[0].items() if workload.VOCABULARY not in sum(shapes[1:], ())
    }
    assert sum(of_layers.values()) >= 7 * 3 * found["micro_batches"]
    assert found["shares"][profile.OF_HEAD] > found["shares"][profile.LAYERS]
