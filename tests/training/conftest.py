import numpy as np
import pytest
import torch
from worlds import World, finished, logp, random_sequence, write_pairs, write_reference, write_sequences

from amberline.text.small_tokenizer import save_llama_tokenizer, train_sentencepiece
from golden_model import golden_model, save_golden_model

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A small model, 36 conversations and 40 pairs, made once."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(5)
    folder = save_golden_model(root / "model")
    save_llama_tokenizer(train_sentencepiece(["Some words for a small tokenizer."] * 9, 280), folder, 128)
    model = finished(folder, "model")
    rows = [random_sequence(rng, 90) for _ in range(36)]
    pairs = []
    for _ in range(40):
        prompt = rng.integers(3, 500, rng.integers(3, 12)).tolist()
        answers = [rng.integers(3, 500, rng.integers(3, 24)).tolist() for _ in range(2)]
        chosen, rejected = ((prompt + answer, [-100] * len(prompt) + answer) for answer in answers)
        pairs.append(
            {
                "chosen_input_ids": chosen[0],
                "chosen_labels": chosen[1],
                "rejected_input_ids": rejected[0],
                "rejected_labels": rejected[1],
            }
        )
    pair_folder = write_pairs(root / "pairs", pairs)
    network = golden_model()
    logps = [
        tuple(logp(network, pair[f"{side}_input_ids"], pair[f"{side}_labels"]) for side in ("chosen", "rejected"))
        for pair in pairs
    ]
    return World(
        model,
        write_sequences(root / "conversations", rows),
        write_sequences(root / "responses", [(pair["chosen_input_ids"], pair["chosen_labels"]) for pair in pairs]),
        pair_folder,
        write_reference(root / "reference", model, pair_folder, logps),
    )
