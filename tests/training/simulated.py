"""A training step on tensors without data, as one process of many: what it holds at its peak.

Load, shard and step are the training's own code. Tensors say that they are on the CPU, for a torch without CUDA has no
gradients of others; what CUDA does otherwise is put in its place: fused norms, and sizes of the output head's chunks.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig

from amberline.model import load, logps, norms, products
from amberline.model.forward import document_logps, token_logps, weighted_loss
from amberline.model.packed import PackedBatch, pack
from amberline.objectives.base import Contribution, MicroBatch
from amberline.objectives.settings import Training
from amberline.training.autotune import Choices
from amberline.training.gradients import clip, squared_gradients
from amberline.training.loop import _forward_and_backward
from amberline.training.optimizers import make_optimizer
from amberline.training.ranks import Ranks


class Held(TorchDispatchMode):
    """Counts the bytes of all storages that operations have made and that are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor):
                self.watch(each)
        return result

    def watch(self, tensor: torch.Tensor) -> None:
        storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()
        place = storage._cdata
        if tensor.device.type == "cpu" and place not in self._sizes:
            self._sizes[place] = 0
            self._resize(place, storage.nbytes())
            weakref.finalize(storage, self._forget, place)

    def _forget(self, place: int) -> None:
        self._resize(place, 0)
        self._sizes.pop(place)

    def _resize(self, place: int, size: int) -> None:
        self.now += size - self._sizes[place]
        self._sizes[place] = size
        self.peak = max(self.peak, self.now)

    @contextmanager
    def resizes(self) -> Iterator[None]:
        """FSDP lets go of gathered parameters by making their storage small."""
        resize = torch.UntypedStorage.resize_

        def watched(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            if storage._cdata in self._sizes:
                self._resize(storage._cdata, size)
            return result

        with patch.object(torch.UntypedStorage, "resize_", watched):
            yield


class FusedNorm(torch.autograd.Function):
    """Keeps what CUDA's RMSNorm keeps: its input, and one number of each token."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(states, weight, states.new_empty((*states.shape[:-1], 1), dtype=torch.float32))
        return torch.empty_like(states)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        states, weight, _ = ctx.saved_tensors
        return torch.empty_like(states), torch.empty_like(weight)


@contextmanager
def like_cuda() -> Iterator[None]:
    with (
        patch.dict(logps.CHUNK_BYTES, cpu=logps.CHUNK_BYTES["cuda"]),
        patch.dict(logps.PIECE_BYTES, cpu=logps.PIECE_BYTES["cuda"]),
        patch.dict(logps.KEPT_BYTES, cpu=logps.KEPT_BYTES["cuda"]),
        patch.object(products, "_has_onednn", lambda: False),
        patch.object(nn.RMSNorm, "forward", lambda norm, states: FusedNorm.apply(states, norm.weight)),
        patch.object(load, "_fill", lambda *_: None),
        patch.object(load, "WeightFiles", lambda _: None),
    ):
        yield


class MeanLoss:
    """Cross entropy, or DPO against a reference of zeros."""

    metrics = ()

    def __init__(self, preferences: bool) -> None:
        self.preferences = preferences

    def __call__(self, model: nn.Module, micro_batch: MicroBatch) -> Contribution:
        batch = micro_batch.documents
        if not self.preferences:
            return Contribution(weighted_loss(model, batch))
        documents = document_logps(token_logps(model, batch).double(), batch)
        return Contribution(-nn.functional.logsigmoid(0.1 * (documents[0::2] - documents[1::2])).sum())


def simulated_peak(
    folder: Path,
    config: LlamaConfig,
    settings: Training,
    choices: Choices,
    nodes: int,
    lengths: Sequence[int],
    micro_batches: int,
    *,
    preferences: bool,
) -> int:
    """Bytes at the peak of two steps. A step has micro-batches of documents of these lengths.

    Parameters are sharded over each of the nodes, or over all processes if there is one.
    """
    config.save_pretrained(folder)
    world = nodes * choices.shards
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)  # type: ignore[no-untyped-call]
    held = Held()
    try:
        mesh = Ranks(0, world, torch.device("cpu"), nodes).mesh(choices.shards)
        batch, mode = random_batch(config.vocab_size, lengths), FakeTensorMode(allow_non_fake_inputs=True)
        to_empty = nn.Module.to_empty

        def without_data(model: nn.Module, **options: Any) -> nn.Module:
            with mode, held:
                return to_empty(model, **options)

        # A Llama's norms are torch's, which tensors without data cannot show.
        plain = patch.object(norms, "_is_plain", lambda _: True)
        with like_cuda(), held.resizes(), plain, patch.object(nn.Module, "to_empty", without_data):
            model = load.load_model(
                folder,
                device="cpu",
                mesh=mesh,
                compute_dtype=getattr(torch, settings.precision),
                attention=choices.attention,
                activation_checkpointing=choices.activation_checkpointing,
                reshard_after_forward=choices.reshard_after_forward,
            )
        with like_cuda(), held.resizes(), mode, held:
            fake = {name: mode.from_tensor(each) for name, each in tensors(batch)}
            micro = MicroBatch((), PackedBatch(**(vars(batch) | fake)))
            optimizer = make_optimizer(model, settings.optimizer)
            run = SimpleNamespace(
                ranks=SimpleNamespace(device=torch.device("cpu")),
                model=model,
                objective=MeanLoss(preferences),
                keep_gathered=not choices.reshard_after_forward,
                reduce_each=choices.accumulated == "shards",
            )
            for _ in range(2):
                _forward_and_backward(run, [micro] * micro_batches)  # type: ignore[arg-type]
                squared_gradients(model)
                clip(model, 2.0, 1.0)
                optimizer.step()
                optimizer.zero_grad()
    finally:
        dist.destroy_process_group()
    return held.peak


def random_batch(vocabulary: int, lengths: Sequence[int]) -> PackedBatch:
    """Three quarters of the tokens are targets, the last of each document among them."""
    random, examples = np.random.default_rng(0), []
    for length in lengths:
        ids = random.integers(0, vocabulary, length)
        labels = np.where(random.random(length) < 0.25, -100, ids)
        labels[-1] = ids[-1]
        examples.append((ids, labels, 1 / sum(lengths)))
    return pack(examples, whole=True)


def tensors(batch: PackedBatch) -> list[tuple[str, torch.Tensor]]:
    return [(name, each) for name, each in vars(batch).items() if isinstance(each, torch.Tensor)]
