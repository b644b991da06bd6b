"""What training benchmarks train on: a small Llama of random weights, and rows of token ids with published lengths.

Ids are random; only their number matters to speed. Everything is seeded, so all contestants get the same.
"""

import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

VOCABULARY = 32_000
CONTEXT = 2048

# Lengths of 356 chunks that the published split makes of 500 real ShareGPT V3 rows, at every tenth of them, counted
# with a 32k SentencePiece vocabulary of the Llama kind: mean 1,111, standard deviation 626, a tenth above 1,911.
CHAT_LENGTHS = (50, 300, 409, 601, 840, 1090, 1433, 1654, 1792, 1911.5, 2048)
# Part of a chunk's tokens that are answers: 75% of all tokens; at 0, 10, 25, 50, 75, 90 and 100% of the chunks.
CHAT_SHARES = ((0, 0.1, 0.25, 0.5, 0.75, 0.9, 1), (0.002, 0.40, 0.67, 0.84, 0.90, 0.93, 0.96))

# Mean tokens of prompt, chosen and rejected response in the pairs of PKU-SafeRLHF v0, and the spread of the log-normal
# distributions that they are drawn from.
PAIR_LENGTHS = {"prompt": (18, 0.45), "chosen": (65, 0.65), "rejected": (74, 0.65)}


def write_model(folder: Path, hidden_size: int = 256, intermediate_size: int = 688, num_hidden_layers: int = 4) -> int:
    """The 19.5M Llama of the published comparison, or one of another shape, with a small tokenizer that trainers insist
    on; its parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from amberline.text.small_tokenizer import save_llama_tokenizer, train_sentencepiece

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=hidden_size // 64,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    save_llama_tokenizer(train_sentencepiece(["a b c d e f g h", "i j k l m n o"] * 50, 280), folder, CONTEXT)
    return int(model.num_parameters())


def conversations(count: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Rows of `input_ids` and `labels`: a round of question and answer after another, -100 on the questions."""
    random = np.random.default_rng(seed)
    # Evenly spaced quantiles: any number of rows has the same statistics.
    places = (random.permutation(count) + 0.5) / count
    lengths = np.interp(places, np.linspace(0, 1, len(CHAT_LENGTHS)), CHAT_LENGTHS).astype(int)
    shares = np.interp((random.permutation(count) + 0.5) / count, *CHAT_SHARES)
    rows = []
    for length, share in zip(lengths.tolist(), shares.tolist(), strict=True):
        ids = random.integers(3, VOCABULARY, length)
        labels = ids.copy()
        rounds = max(1, length // 300)
        for part in np.array_split(np.arange(length), rounds):
            labels[part[: max(1, round(len(part) * (1 - share)))]] = -100
        rows.append({"input_ids": ids.tolist(), "labels": labels.tolist()})
    return rows


def pairs(count: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Rows of `prompt`, `chosen` and `rejected`: token ids, each response with its end-of-sequence token."""
    random = np.random.default_rng(seed)
    lengths = {}
    for name, (mean, spread) in PAIR_LENGTHS.items():
        drawn = random.lognormal(0, spread, count)
        lengths[name] = np.clip(np.rint(drawn * mean / drawn.mean()), 3, 400).astype(int)
    return [
        {
            "prompt": random.integers(3, VOCABULARY, prompt).tolist(),
            "chosen": [*random.integers(3, VOCABULARY, chosen - 1).tolist(), 2],
            "rejected": [*random.integers(3, VOCABULARY, rejected - 1).tolist(), 2],
        }
        for prompt, chosen, rejected in zip(*lengths.values(), strict=True)
    ]


def statistics(values: list[int]) -> dict[str, float]:
    """Mean, standard deviation and tail."""
    array = np.asarray(values)
    return {
        "mean": float(array.mean()),
        "sd": float(array.std()),
        "p50": float(np.quantile(array, 0.5)),
        "p90": float(np.quantile(array, 0.9)),
        "max": int(array.max()),
    }


def write_rows(path: Path, rows: list[dict[str, list[int]]]) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
