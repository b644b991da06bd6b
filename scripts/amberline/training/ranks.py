"""The processes of a training, one a GPU: how they find each other and agree."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

Value = TypeVar("Value")


class FirstRankFailed(Exception):
    """The first process has failed, and has told why."""


def is_loss_of_process(error: Exception) -> bool:
    """Whether this is what gloo, NCCL or the store raise when another process has gone."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


@dataclass(frozen=True)
class Ranks:
    """This process among all. A single process has no groups."""

    rank: int
    world: int
    device: torch.device
    nodes: int = 1  # machines, with as many processes each
    control: dist.ProcessGroup | None = None  # gloo: small agreements between the main threads
    saving: dist.ProcessGroup | None = None  # gloo: the threads that write checkpoints
    store: Store | None = None  # what the processes have found each other with

    @property
    def first(self) -> bool:
        """Whether this process is the one that logs and writes."""
        return self.rank == 0

    @property
    def shardings(self) -> list[int]:
        """Over how many processes parameters can be sharded, those with the least traffic between nodes first.

        Sharded over one node, they are replicated on every node: only gradients go from node to node.
        """
        per_node = self.world // self.nodes
        return [per_node, self.world] if 1 < per_node < self.world else [self.world]

    def mesh(self, shards: int) -> DeviceMesh | None:
        """The processes, for parameters sharded over so many of them; None for a single process.

        One-dimensional where that is all of them, else [replicas, shards]. All processes have to ask for it.
        """
        if self.world == 1:
            return None
        if shards == self.world:
            return init_device_mesh(self.device.type, (self.world,))
        return init_device_mesh(self.device.type, (self.world // shards, shards), mesh_dim_names=("replicate", "shard"))

    def add(self, values: list[float]) -> list[float]:
        """Element-wise sums over all processes, in the order of ranks, so that every run adds alike."""
        if self.world == 1:
            return values
        parts = [torch.empty(len(values), dtype=torch.float64) for _ in range(self.world)]
        dist.all_gather(parts, torch.tensor(values, dtype=torch.float64), group=self.control)
        sums: list[float] = sum(parts[1:], start=parts[0]).tolist()
        return sums

    def gather(self, value: Value) -> list[Value]:
        """The value of every process, on every process."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What `make` returns on the first process, on every process.

        What it raises there is raised there, and FirstRankFailed on the others, so that all of them end.
        """
        if self.world == 1:
            return make()
        answer: list[Any] = [None, False]
        failure: Exception | None = None
        if self.first:
            try:
                answer = [make(), True]
            except Exception as error:
                failure = error
        dist.broadcast_object_list(answer, src=0, group=self.control)
        if failure is not None:
            raise failure
        if not answer[1]:
            raise FirstRankFailed
        value: Value = answer[0]
        return value


def init_ranks(device: str, threads: int) -> Ranks:
    """Initialise the process group that torchrun has prepared, or none for a single process. `device`: cuda or cpu."""
    # Without torchrun, such variables are left over from something else: this is one process, started by itself.
    given = os.environ if dist.is_torchelastic_launched() else {}
    rank, world, nodes = (
        int(given.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("GROUP_WORLD_SIZE", "1"))
    )
    torch.set_num_threads(threads)
    if device == "cuda":
        torch.cuda.set_device(int(given.get("LOCAL_RANK", "0")))
        here = torch.device("cuda", torch.cuda.current_device())
    else:
        here = torch.device("cpu")
    if world == 1:
        return Ranks(rank, world, here)
    # A process that waits longer than this waits for one that has gone.
    patience = timedelta(minutes=30)
    store, _, _ = next(rendezvous("env://", timeout=patience))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=patience, store=store, rank=rank, world_size=world
    )
    return Ranks(
        rank,
        world,
        here,
        nodes,
        dist.new_group(backend="gloo"),
        dist.new_group(backend="gloo"),
        store,
    )


def destroy_ranks() -> None:
    """Destroy the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
