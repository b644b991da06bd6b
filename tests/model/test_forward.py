"""The model computes what transformers' Llama computes, one document at a time, however documents are packed."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from amberline.model import logps
from amberline.model.forward import document_logps, hidden_states, token_logps, weighted_loss
from amberline.model.load import load_model
from amberline.model.packed import pack

DOUBLE = torch.float64


def gradients(model):
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return found


def furthest(ours, theirs):
    """Largest difference of two sets of gradients, relative to the largest gradient."""
    assert ours.keys() == theirs.keys()
    scale = max(float(each.abs().max()) for each in theirs.values())
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours) / scale


def reference_logps(folder, ids):
    """transformers' own forward pass over one document, [length - 1]."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(ids)[None]).logits[0].double()
    return logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids)[1:, None]).squeeze(1)


def test_golden_probe(golden_folder, probe):
    model = load_model(golden_folder, device="cpu")
    for name, parameter in model.named_parameters():
        expected = probe["parameters"][name]
        assert parameter.double().sum().item() == pytest.approx(expected["sum"], rel=1e-9, abs=1e-6)
        assert parameter.double().norm().item() == pytest.approx(expected["l2"], rel=1e-9)
        assert parameter.flatten()[:4].tolist() == expected["first"]
    ids = probe["input_ids"][0]
    with torch.no_grad():
        logits = (hidden_states(model, pack([(ids, ids, 1.0)], whole=True)) @ model.lm_head.weight.T).double()
    # The sum of terms of both signs is ill-conditioned: float64 differs from the published float32 by 2e-6 of it.
    assert logits.sum().item() == pytest.approx(probe["logits_sum"], rel=5e-6)
    assert logits.norm().item() == pytest.approx(probe["logits_l2"], rel=1e-7)


def test_log_probabilities_are_those_of_transformers(grouped_folder, examples):
    model = load_model(grouped_folder, device="cpu")
    whole = [(ids, ids, 1.0) for ids, _, _ in examples]
    ours = token_logps(model, pack(whole)).detach()
    assert ours.dtype == torch.float32
    theirs = torch.cat([reference_logps(grouped_folder, ids) for ids, _, _ in whole])
    assert (ours - theirs).abs().max() < 1e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-7)])
def test_packed_is_one_by_one(grouped_folder, examples, dtype, tolerance):
    model = load_model(grouped_folder, device="cpu", compute_dtype=dtype)
    hidden = hidden_states(model, pack(examples, whole=True)).detach()
    alone = torch.cat([hidden_states(model, pack([example], whole=True)).detach() for example in examples])
    assert hidden.dtype == dtype
    # Logits, relative to their size.
    head = model.lm_head.weight.detach()
    assert ((hidden - alone) @ head.T).abs().max() / (alone @ head.T).abs().max() < tolerance

    loss = weighted_loss(model, pack(examples))
    loss.backward()
    of_packed = gradients(model)
    losses = [weighted_loss(model, pack([example])) for example in examples]
    sum(losses).backward()
    assert loss.item() == pytest.approx(sum(each.item() for each in losses), rel=tolerance)
    assert furthest(of_packed, gradients(model)) < tolerance


def test_documents_do_not_see_each_other(grouped_folder, examples):
    model = load_model(grouped_folder, device="cpu")
    ids, labels, weights = examples[2]
    others = [(np.flip(each[0]).copy(), each[1], each[2]) for each in examples]
    swapped = [*others[:2], (ids, labels, weights), *others[3:]]
    borders = pack(examples, whole=True).cu_seqlens
    mine = slice(int(borders[2]), int(borders[3]))
    with torch.no_grad():
        before, after = (hidden_states(model, pack(batch, whole=True))[mine] for batch in (examples, swapped))
    assert torch.equal(before, after)


def test_loss_is_the_weighted_sum_and_gives_the_same_gradients(grouped_folder, examples, monkeypatch):
    """Both ways to the loss, and any number of chunks and their pieces, agree with plain torch on the whole logits."""
    model = load_model(grouped_folder, device="cpu", compute_dtype=DOUBLE)
    batch = pack(examples)
    logits = hidden_states(model, batch)[batch.target_positions] @ model.lm_head.weight.T
    plain = -(logits.log_softmax(1).gather(1, batch.targets[:, None]).squeeze(1) * batch.target_weights).sum()
    plain.backward()
    expected = gradients(model)
    monkeypatch.setitem(logps.KEPT_BYTES, "cpu", 20 * 300 * 8)
    for rows, of_piece in ((1, 1), (7, 3), (10_000, 10_000)):
        monkeypatch.setitem(logps.CHUNK_BYTES, "cpu", rows * 300 * 8)
        monkeypatch.setitem(logps.PIECE_BYTES, "cpu", of_piece * 300 * 8)
        direct = weighted_loss(model, batch)
        direct.backward()
        assert direct.item() == pytest.approx(plain.item(), rel=1e-13)
        assert furthest(gradients(model), expected) < 1e-13
        scored = -(token_logps(model, batch) * batch.target_weights).sum()
        scored.backward()
        assert scored.item() == pytest.approx(plain.item(), rel=1e-13)
        assert furthest(gradients(model), expected) < 1e-13


def test_gradient_of_log_probabilities_is_numerically_right():
    torch.manual_seed(0)
    hidden = torch.randn(5, 3, dtype=DOUBLE, requires_grad=True)
    weight = torch.randn(11, 3, dtype=DOUBLE, requires_grad=True)
    targets, weights = torch.tensor([0, 10, 3, 3, 7]), torch.rand(5, dtype=DOUBLE)
    assert torch.autograd.gradcheck(lambda h, w: logps.log_probabilities(h, w, targets), (hidden, weight))
    assert torch.autograd.gradcheck(lambda h, w: logps.weighted_loss(h, w, targets, weights), (hidden, weight))


def test_bfloat16_products_have_float32_softmax():
    torch.manual_seed(0)
    hidden, weight = torch.randn(64, 32).bfloat16(), torch.randn(500, 32).bfloat16()
    targets = torch.randint(0, 500, (64,))
    ours = logps.log_probabilities(hidden, weight, targets)
    exact = (hidden @ weight.T).double().log_softmax(1).gather(1, targets[:, None]).squeeze(1)
    assert ours.dtype == torch.float32
    assert (ours - exact).abs().max() < 5e-6


def test_what_no_target_needs_changes_nothing(grouped_folder, examples):
    model = load_model(grouped_folder, device="cpu", compute_dtype=DOUBLE)
    results = []
    for whole in (True, False):
        loss = weighted_loss(model, pack(examples, whole=whole))
        loss.backward()
        results.append((loss.item(), gradients(model)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-13)
    assert furthest(results[0][1], results[1][1]) < 1e-13


def test_a_batch_without_targets_has_no_loss_but_gradients(grouped_folder):
    """Every rank must take part in every backward pass, even with nothing to learn from."""
    model = load_model(grouped_folder, device="cpu")
    batch = pack([([5, 6, 7], [-100] * 3, 1.0)])
    loss = weighted_loss(model, batch)
    loss.backward()
    assert loss.item() == 0
    assert all(float(each.abs().max()) == 0 for each in gradients(model).values())
    token_logps(model, batch).sum().backward()
    assert all(float(each.abs().max()) == 0 for each in gradients(model).values())


def test_document_logps_are_sums_over_documents(grouped_folder, examples):
    model = load_model(grouped_folder, device="cpu", compute_dtype=DOUBLE)
    batch = pack(examples)
    with torch.no_grad():
        scores = document_logps(token_logps(model, batch), batch)
        alone = [token_logps(model, pack([example])).sum() for example in examples]
    assert scores.shape == (len(examples),)
    assert torch.allclose(scores, torch.stack(alone), rtol=1e-12, atol=0)
    assert scores[1] == 0  # a single token has nothing to predict


@pytest.mark.parametrize("level", ["selective", "full"])
def test_activation_checkpointing_changes_nothing_but_what_is_kept(grouped_folder, examples, level):
    batch = pack(examples)
    results, kept = [], []
    for each in ("none", level):
        model = load_model(grouped_folder, device="cpu", activation_checkpointing=each)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t):
            loss = weighted_loss(model, batch)
        loss.backward()
        results.append((loss.item(), gradients(model)))
        kept.append(sum(saved))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[0][1][name], results[1][1][name]) for name in results[0][1])
    assert kept[1] < kept[0]
