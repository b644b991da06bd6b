"""Two processes compute what one computes, to the bit; processes are started once for all tests of this file."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh

from amberline.model.forward import inference, token_logps, weighted_loss
from amberline.model.load import load_model
from amberline.model.packed import pack
from amberline.model.weights import CheckpointWeights
from amberline.training.gradients import synchronise

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from load_memory import on_a_rank as load_and_measure
from load_memory import write_model

RANKS = 2
VARIANTS = {
    "plain": {},
    "reshard": {"reshard_after_forward": True},
    "selective": {"activation_checkpointing": "selective"},
    "full and reshard": {"activation_checkpointing": "full", "reshard_after_forward": True},
}


def batches():
    """One micro-batch a rank."""
    rng = np.random.default_rng(0)
    return [
        pack([(rng.integers(0, 300, n), rng.integers(0, 300, n), 0.01) for n in (5, 17, 17, 1, 40)]) for _ in range(2)
    ]


def two_steps(model, mine):
    """Two optimizer steps; returns the log-probabilities before them."""
    with inference(model):
        before = token_logps(model, batches()[0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        for batch in mine:
            weighted_loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    return before


def two_micro_batches(model, reduce_each):
    """Gradients of a step, and whether those of the first micro-batch were reduced before the second one."""
    reduced = []
    for number, batch in enumerate(batches()):
        synchronise(model, last=number == 1, keep_gathered=False, reduce_each=reduce_each)
        weighted_loss(model, batch).backward()
        reduced.append(all(each.grad is not None for each in model.parameters()))
    return {"reduced": reduced, "of": {name: each.grad.full_tensor() for name, each in model.named_parameters()}}


def on_a_rank(rank: int, folder: Path, results: Path) -> None:
    # First, for memory that has been used once is not given back.
    load_and_measure(rank, RANKS, results / "large", results)
    torch.set_num_threads(1)
    store = dist.FileStore(str(results / "second store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    mesh = init_device_mesh("cpu", (RANKS,))
    for name, options in VARIANTS.items():
        model = load_model(folder, device="cpu", mesh=mesh, **options)
        rows = {name: len(each.to_local()) for name, each in model.named_parameters()}
        before = two_steps(model, [batches()[rank]])
        state = {key: each.full_tensor() for key, each in get_model_state_dict(model).items()}
        if rank == 0:
            torch.save({"state": state, "before": before, "rows": rows}, results / f"{name}.pt")
    dcp.save(get_model_state_dict(model), checkpoint_id=results / "final")
    for reduce_each in (False, True):
        gradients = two_micro_batches(load_model(folder, device="cpu", mesh=mesh), reduce_each)
        if rank == 0:
            torch.save(gradients, results / f"gradients {reduce_each}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(grouped_folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("ranks")
    (place / "large").mkdir()
    write_model(place / "large", "70M")
    torch.multiprocessing.spawn(on_a_rank, (grouped_folder, place), nprocs=RANKS)
    return place


@pytest.fixture(scope="module")
def alone(grouped_folder):
    model = load_model(grouped_folder, device="cpu")
    before = two_steps(model, batches())
    return {"state": {name: each.detach().clone() for name, each in model.named_parameters()}, "before": before}


@pytest.mark.parametrize("variant", VARIANTS)
def test_bitwise_equal_to_one_process(results, alone, variant):
    sharded = torch.load(results / f"{variant}.pt")
    assert torch.equal(sharded["before"], alone["before"])
    assert sharded["state"].keys() == alone["state"].keys()
    for name, tensor in alone["state"].items():
        assert torch.equal(sharded["state"][name], tensor), name


def test_gradients_are_the_same_reduced_once_or_after_each_micro_batch(results):
    once, each = (torch.load(results / f"gradients {reduce_each}.pt") for reduce_each in (False, True))
    assert (once["reduced"], each["reduced"]) == ([False, True], [True, True])
    for name, gradient in once["of"].items():
        torch.testing.assert_close(each["of"][name], gradient, rtol=1e-5, atol=1e-8)


def test_each_rank_holds_its_part(results, alone):
    rows = torch.load(results / "plain.pt")["rows"]
    assert rows == {name: -(-len(tensor) // RANKS) for name, tensor in alone["state"].items()}


def test_checkpoint_of_two_ranks_is_read_by_one(results, alone):
    weights = CheckpointWeights(results / "final")
    assert weights.shapes() == {name: tensor.shape for name, tensor in alone["state"].items()}
    for name, tensor in weights.read(alone["state"]).items():
        assert torch.equal(tensor, alone["state"][name]), name


def test_bfloat16_alone_keeps_float32_parameters(grouped_folder, alone):
    model = load_model(grouped_folder, device="cpu", compute_dtype=torch.bfloat16)
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    with torch.no_grad():
        logps = token_logps(model, batches()[0])
    assert logps.dtype == torch.float32
    assert not torch.equal(logps, alone["before"])
    assert (logps - alone["before"]).abs().max() < 0.02
    dist.destroy_process_group()


def test_bfloat16_leaves_the_weights_of_targets_exact(grouped_folder):
    """FSDP2 casts what goes into a model, if it is let: 0.01 would be 0.010010 in bfloat16."""
    model = load_model(grouped_folder, device="cpu", compute_dtype=torch.bfloat16)
    batch = batches()[0]
    with inference(model):
        expected = -(token_logps(model, batch).double() * batch.target_weights).sum()
        found = weighted_loss(model, batch)
    dist.destroy_process_group()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_no_rank_ever_holds_the_full_model(results):
    full = sum(file.stat().st_size for file in (results / "large").glob("*.safetensors"))
    for rank in range(RANKS):
        found = json.loads((results / f"{rank}.json").read_text())
        assert found["held"] < 0.501 * full
        assert found["peak"] - found["base"] < 0.75 * full
