import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amberline.model.packed import IGNORED, pack

documents = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.floats(0, 1)), min_size=1, max_size=8),
    min_size=1,
    max_size=6,
)


@settings(derandomize=True, deadline=None)
@given(documents)
def test_every_labelled_token_but_the_first_is_a_target_once(drawn):
    examples = [
        ([token for token, _, _ in doc], [token if on else IGNORED for token, on, _ in doc], [w for _, _, w in doc])
        for doc in drawn
    ]
    batch = pack(examples, whole=True)

    assert batch.input_ids.tolist() == [token for ids, _, _ in examples for token in ids]
    assert batch.cu_seqlens.diff().tolist() == [len(ids) for ids, _, _ in examples]
    assert batch.documents == len(examples)
    assert batch.max_length == max(len(ids) for ids, _, _ in examples)
    expected = [
        (number, ids[i - 1], labels[i], weights[i], i - 1)
        for number, (ids, labels, weights) in enumerate(examples)
        for i in range(1, len(ids))
        if labels[i] != IGNORED
    ]
    got = list(
        zip(
            batch.target_documents.tolist(),
            batch.input_ids[batch.target_positions].tolist(),
            batch.targets.tolist(),
            batch.target_weights.tolist(),
            batch.position_ids[batch.target_positions].tolist(),
            strict=True,
        )
    )
    assert got == expected

    # What is left out is what no target needs.
    used = [max([i for i in range(1, len(ids)) if labels[i] != IGNORED], default=1) for ids, labels, _ in examples]
    shorter = pack(examples)
    assert shorter.cu_seqlens.diff().tolist() == used
    assert shorter.input_ids.tolist() == [
        token for (ids, _, _), n in zip(examples, used, strict=True) for token in ids[:n]
    ]
    for name in ("targets", "target_weights", "target_documents"):
        assert torch.equal(getattr(shorter, name), getattr(batch, name))
    for name in ("input_ids", "position_ids"):
        before, after = (getattr(each, name)[each.target_positions] for each in (batch, shorter))
        assert torch.equal(before, after)


def test_dtypes_and_one_weight_for_all():
    batch = pack([(np.array([1, 2, 3], dtype=np.int32), [-100, 2, 3], 0.25)])
    assert batch.input_ids.dtype == batch.position_ids.dtype == batch.targets.dtype == torch.int64
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.target_weights.dtype == torch.float64
    assert batch.target_weights.tolist() == [0.25, 0.25]
    assert batch.to("cpu") is not batch


@pytest.mark.parametrize("bad", [[], [([], [], 1.0)], [([1, 2], [1], 1.0)]])
def test_refuses_what_is_no_document(bad):
    with pytest.raises(ValueError, match="document"):
        pack(bad)


def test_padding_is_behind_all_documents_and_no_part_of_the_loss(examples):
    batch = pack(examples)
    tokens = batch.input_ids.numel()
    padded = batch.padded(tokens + 150, 70)
    assert padded.input_ids.numel() == padded.position_ids.numel() == tokens + 150
    assert padded.cu_seqlens.dtype == torch.int32
    assert padded.cu_seqlens.diff().tolist() == [*batch.cu_seqlens.diff().tolist(), 70, 70, 10]
    assert padded.position_ids[tokens:].tolist() == [*range(70), *range(70), *range(10)]
    assert (padded.max_length, padded.documents, padded.padding) == (70, batch.documents, 3)
    for name in ("target_positions", "targets", "target_weights", "target_documents"):
        assert getattr(padded, name) is getattr(batch, name)
    for name in ("input_ids", "position_ids", "cu_seqlens"):
        kept = getattr(batch, name)
        assert torch.equal(getattr(padded, name)[: len(kept)], kept)


def test_a_full_batch_takes_no_padding(examples):
    batch = pack(examples)
    full = batch.padded(batch.input_ids.numel(), batch.max_length)
    assert full.padding == 0
    assert torch.equal(full.cu_seqlens, batch.cu_seqlens)
    for tokens, longest in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="no room for padding"):
            batch.padded(batch.input_ids.numel() + tokens, batch.max_length + longest)
