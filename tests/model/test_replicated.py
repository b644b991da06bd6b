"""Four processes as two nodes of two: parameters sharded over a node, and replicated."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from amberline.model.forward import weighted_loss
from amberline.model.load import load_model
from amberline.model.packed import pack
from amberline.training.checkpoints import _bytes_of
from amberline.training.gradients import squared_gradients, synchronise
from amberline.training.ranks import Ranks

NODES, RANKS = 2, 4
MICRO_BATCHES = 3


def micro_batches(rank):
    rng = np.random.default_rng(rank)
    lengths = [(5, 17, 1), (12, 30), (8, 8)]
    return [pack([(rng.integers(0, 300, n), rng.integers(0, 300, n), 0.01) for n in each]) for each in lengths]


def count_all_reduced(between_nodes):
    """The size of every all-reduce between nodes, from now on."""
    whole, seen = dist.all_reduce, []

    def all_reduce(tensor, *arguments, group, **options):
        if group is between_nodes:
            seen.append(tensor.numel())
        return whole(tensor, *arguments, group=group, **options)

    dist.all_reduce = all_reduce
    return seen


def on_a_rank(rank: int, folder: Path, results: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(results / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    ranks = Ranks(rank, RANKS, torch.device("cpu"), NODES, dist.group.WORLD)
    mesh = ranks.mesh(ranks.shardings[0])
    seen = count_all_reduced(mesh.get_group("replicate"))
    for reduce_each in (False, True):
        model = load_model(folder, device="cpu", mesh=mesh)
        for step in range(2):  # what is left of the first shows in the second
            seen.clear()
            model.zero_grad()
            for number, batch in enumerate(micro_batches(rank)):
                synchronise(model, last=number + 1 == MICRO_BATCHES, keep_gathered=step == 0, reduce_each=reduce_each)
                weighted_loss(model, batch).backward()
        found = {
            "weights": {name: each.full_tensor() for name, each in model.named_parameters()},
            "rows": {name: len(each.to_local()) for name, each in model.named_parameters()},
            "gradients": {name: each.grad.full_tensor() for name, each in model.named_parameters()},
            "squares": ranks.add([float(squared_gradients(model))])[0],
            "all-reduced": sum(seen),
            "bytes": _bytes_of(get_model_state_dict(model)),
        }
        torch.save(found, results / f"{rank} {reduce_each}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(grouped_folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("nodes")
    torch.multiprocessing.spawn(on_a_rank, (grouped_folder, place), nprocs=RANKS)
    return place


@pytest.fixture(scope="module")
def alone(grouped_folder):
    """One process with the micro-batches of all."""
    model = load_model(grouped_folder, device="cpu")
    for rank in range(RANKS):
        for batch in micro_batches(rank):
            weighted_loss(model, batch).backward()
    return dict(model.named_parameters())


@pytest.mark.parametrize("reduce_each", [False, True])
@pytest.mark.parametrize("rank", range(RANKS))
def test_every_replica_has_the_weights_and_the_gradients_of_one_process(results, alone, rank, reduce_each):
    found = torch.load(results / f"{rank} {reduce_each}.pt")
    for name, parameter in alone.items():
        assert torch.equal(found["weights"][name], parameter), name
        assert found["rows"][name] == -(-len(parameter) // (RANKS // NODES))
        torch.testing.assert_close(found["gradients"][name], parameter.grad, rtol=1e-5, atol=1e-8)
    squares = sum(float(each.grad.double().square().sum()) for each in alone.values())
    assert found["squares"] == pytest.approx(squares, rel=1e-6)


@pytest.mark.parametrize("reduce_each", [False, True])
def test_replicas_are_equal_to_the_bit(results, reduce_each):
    one, other = (torch.load(results / f"{rank} {reduce_each}.pt") for rank in (0, 2))
    for name, gradient in one["gradients"].items():
        assert torch.equal(gradient, other["gradients"][name]), name


@pytest.mark.parametrize("reduce_each", [False, True])
def test_shards_of_gradients_go_between_nodes_once_a_step(results, alone, reduce_each):
    count = sum(each.numel() for each in alone.values())
    found = torch.load(results / f"0 {reduce_each}.pt")
    assert found["all-reduced"] == pytest.approx(count / (RANKS // NODES), rel=0.01)


def test_a_checkpoint_is_as_large_as_one_replica(results, alone):
    assert torch.load(results / "0 False.pt")["bytes"] == sum(4 * each.numel() for each in alone.values())
