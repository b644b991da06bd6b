from pathlib import Path

import pytest
from tokenizer_folders import byte_level_folder, llama_folder

from amberline.text.tokenizers import load_tokenizer


@pytest.fixture(scope="session")
def legacy_folder(tmp_path_factory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("legacy"), legacy=True)


@pytest.fixture(scope="session")
def modern_folder(tmp_path_factory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("modern"), legacy=False)


@pytest.fixture(scope="session")
def legacy(legacy_folder):
    return load_tokenizer(legacy_folder)


@pytest.fixture(scope="session")
def modern(modern_folder):
    return load_tokenizer(modern_folder)


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory):
    return load_tokenizer(byte_level_folder(tmp_path_factory.mktemp("byte-level")))
