"""What transformers 4.57's slow LlamaTokenizer does, on SentencePiece alone: the oracle for our tokenizers.

transformers 5 no longer has that class. `benchmarks/data_preparation.py` compares with the class itself.
"""

import re
from pathlib import Path
from types import SimpleNamespace

import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2


class SlowLlama:
    """Callable as FastChat calls its tokenizer."""

    def __init__(
        self, model: Path, legacy: bool, model_max_length: int = 2048, added: dict[str, int] | None = None
    ) -> None:
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(model.read_bytes())
        proto.normalizer_spec.add_dummy_prefix = legacy
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.legacy = legacy
        self.model_max_length = model_max_length
        self.specials = {"<unk>": 0, "<s>": 1, "</s>": 2, **(added or {})}
        self.special = re.compile(f"({'|'.join(map(re.escape, self.specials))})")
        self.pad_token_id = 0  # FastChat pads with the unknown token
        self.unk_length = len(self.processor.encode("<unk>"))

    def ids(self, text: str) -> list[int]:
        """Ids without the beginning-of-sequence token."""
        if not self.legacy and text:
            text = "▁" + text.replace("▁", " ")
        ids: list[int] = []
        for segment in self.special.split(text):
            if segment in self.specials:
                ids.append(self.specials[segment])
            elif segment:
                ids += self._segment(segment)
        first_is_a_mark = not self.legacy and len(ids) > 1 and self.processor.id_to_piece(ids[0]) == "▁"
        return ids[1:] if first_is_a_mark and ids[1] in self.specials.values() else ids

    def _segment(self, segment: str) -> list[int]:
        if self.legacy or not segment.startswith(("▁", " ")):
            return self.processor.encode(segment)
        # SentencePiece would drop nothing here, but transformers encodes behind a dummy and takes that off again.
        return self.processor.encode("<unk>" + segment)[self.unk_length :]

    def __call__(self, text, return_tensors=None, padding=None, max_length=None, truncation=False):
        if isinstance(text, str):
            return SimpleNamespace(input_ids=[1, *self.ids(text)])
        rows = [[1, *self.ids(one)][:max_length] for one in text]
        padded = [row + [self.pad_token_id] * (max_length - len(row)) for row in rows]
        return SimpleNamespace(input_ids=torch.tensor(padded))
