import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import HubServer
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from amberline.text.small_tokenizer import save_llama_tokenizer, train_sentencepiece

TEXT = ["A question about trees, and why they grow.", "Trees grow because of light; roots hold them."] * 20
ENTRIES = 300


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model that can be trained."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("small-model")
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=ENTRIES, num_key_value_heads=2, **sizes)).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    save_llama_tokenizer(train_sentencepiece(TEXT, ENTRIES), folder, 128)
    return folder


@pytest.fixture
def tensors(small_model: Path) -> dict[str, torch.Tensor]:
    return load_file(small_model / "model.safetensors")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub on loopback, and an environment in which it is the only one and no time is spent waiting."""
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(time, "sleep", server.slept.append)
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()
