"""The demo from raw data to report with base models of other architectures, each with its family's tokenizer."""

import json
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from amberline.recipe.tiny_models import ARCHITECTURES, TOKENIZERS
from dag.conftest import DEMO

pytestmark = pytest.mark.timeout(1800)

SWEPT = [pytest.param(name, marks=pytest.mark.sweep) for name in sorted(ARCHITECTURES.keys() - {"llama", "qwen3"})]


@pytest.mark.parametrize("architecture", ["qwen3", *SWEPT])
def test_the_demo_with_another_base_model(fresh, tmp_path, architecture):
    project = fresh.copy(tmp_path / "project")
    mine: dict[str, Any] = {"models": {"base": {"tiny": {"architecture": architecture}}, "amberchat": {"epochs": 1}}}
    if TOKENIZERS[architecture] != "llama":
        mine["datasets"] = {"evol-mix-split": {"mode": "lossless"}}  # FastChat's counts are those of Llama's tokenizer
    (project.root / "mine.yaml").write_text(json.dumps(mine))
    configured = [DEMO[0], DEMO[1], "mine.yaml", *DEMO[2:]]
    project.snakemake(*configured, "--quiet", "rules", "host")

    made = project.root / "results/demo"
    assert (made / "report/index.html").is_file()
    assert AutoConfig.from_pretrained(made / "models/ambersafe").model_type in architecture
    tokenizer = AutoTokenizer.from_pretrained(made / "models/ambersafe", fix_mistral_regex=False)
    text = "How do I make crêpes? 味噌汁"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    (metrics,) = (made / "checkpoints").glob("amberchat-*/metrics.jsonl")
    losses = [line["loss"] for line in map(json.loads, metrics.read_text().splitlines()) if "loss" in line]
    assert losses[-1] < losses[0] - 1
    assert "Nothing to be done" in project.look("-n", *configured)
