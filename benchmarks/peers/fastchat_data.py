"""FastChat's own code on a file of conversations, timed. data_preparation.py runs it in an environment of its own.

Prints seconds as JSON: `split` is `fastchat.data.split_long_conversation` as a whole, `masks` is what
`LazySupervisedDataset` does for every chunk. Imports are not counted.
"""

import argparse
import functools
import json
import time

import numpy as np
import transformers
from fastchat.data import split_long_conversation
from fastchat.train.train import preprocess


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("conversations", "model", "chunks", "masks"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--max-length", type=int, required=True)
    parser.add_argument("--fast", action="store_true", help="the fast tokenizer instead of the slow one")
    options = parser.parse_args()
    load = transformers.AutoTokenizer.from_pretrained
    # FastChat asks for the slow one itself.
    transformers.AutoTokenizer.from_pretrained = lambda *a, **k: load(*a, **{**k, "use_fast": options.fast})

    start = time.perf_counter()
    split_long_conversation.main(
        argparse.Namespace(
            in_file=options.conversations,
            out_file=options.chunks,
            begin=None,
            end=None,
            model_name_or_path=options.model,
            max_length=options.max_length,
        )
    )
    split = time.perf_counter()
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        options.model, model_max_length=options.max_length, padding_side="right", use_fast=False
    )
    tokenizer.pad_token = tokenizer.unk_token
    with open(options.chunks) as handle:
        chunks = json.load(handle)
    samples = [preprocess([chunk["conversations"]], tokenizer) for chunk in chunks]
    masks = time.perf_counter()

    lengths = [int(sample["attention_mask"].sum()) for sample in samples]
    unpadded = functools.partial(_unpadded, samples, lengths)
    np.savez(options.masks, lengths=lengths, input_ids=unpadded("input_ids"), labels=unpadded("labels"))
    print(json.dumps({"split": split - start, "masks": masks - split, "tokenizer": type(tokenizer).__name__}))


def _unpadded(samples: list[dict], lengths: list[int], column: str) -> np.ndarray:
    rows = [
        sample[column][0, :length].numpy().astype(np.int32) for sample, length in zip(samples, lengths, strict=True)
    ]
    return np.concatenate(rows)


if __name__ == "__main__":
    main()
