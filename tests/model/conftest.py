import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from golden_model import save_golden_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden model, in several safetensors files with an index."""
    return save_golden_model(tmp_path_factory.mktemp("golden"), max_shard_size="100KB")


@pytest.fixture(scope="session")
def grouped_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with fewer key heads than query heads, in one safetensors file."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    folder = tmp_path_factory.mktemp("grouped")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def probe() -> dict:
    return json.loads((Path(__file__).parents[1] / "golden" / "model_probe.json").read_text())


@pytest.fixture
def examples() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Documents of many lengths, one of a single token, some equal; some labels masked; all weights different."""
    rng = np.random.default_rng(1)
    made = []
    for length in (23, 1, 40, 23, 2, 65, 40, 23):
        ids = rng.integers(0, 300, length)
        labels = np.where(rng.random(length) < 0.4, -100, ids)
        made.append((ids, labels, rng.random(length) / 100))
    return made
