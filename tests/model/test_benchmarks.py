"""The GPU benchmark runs whole, small and on the CPU, so that it does when a GPU is lent."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_gpu_training_checks_itself_on_the_cpu(tmp_path):
    output = tmp_path / "check.json"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/gpu_training.py", "--check", "--steps", "1", "--output", output],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert {each["checkpointing"] for each in found["chat"]} == {"full", "selective", "none"}
    # What is recomputed changes no loss, at either size.
    for size in (256, 512):
        losses = [each["losses"] for each in found["chat"] if each["tokens"] == size]
        assert losses[0] == losses[1] == losses[2]
        assert losses[0][1] < losses[0][0]
    assert found["pairs"][0]["losses"][1] < found["pairs"][0]["losses"][0]
    plain, fastest = (found["agreement"][name]["losses"] for name in ("plain", "fastest"))
    assert plain == fastest and len(plain) == 20
