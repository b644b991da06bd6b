"""Optimizer steps of a Llama of random weights on a GPU, as the product takes them: what the GPU benchmarks share.

Synthetic documents, packed; settings of the published recipe: AdamW or RMSprop, gradient norm and clipping, bfloat16
or float32 (in TF32) with float32 weights and moments. `--check` runs the same on a CPU, with a small model: CUDA's
attention kernels have stand-ins there (cpu_kernels.py), and compiling stops before Inductor would write code.
"""

import contextlib
import gc
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import torch.distributed as dist
import transformers
from torch._dynamo.utils import counters
from torch.distributed.device_mesh import init_device_mesh
from transformers import LlamaConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from amberline.model import estimates
from amberline.model.attention import choose_attention, head_width
from amberline.model.estimates import Rates
from amberline.model.files import read_config
from amberline.model.forward import document_logps, inference, token_logps, weighted_loss
from amberline.model.load import load_model
from amberline.model.packed import PackedBatch, pack
from amberline.model.sizes import sizes_of
from amberline.model.weights import write_safetensors
from amberline.objectives.settings import Training
from amberline.recipe.check import check_recipe
from amberline.recipe.files import PUBLISHED, read_recipe
from amberline.recipe.graph import Recipe
from amberline.training.autotune import compute_bytes, moments
from amberline.training.determinism import settle_determinism
from amberline.training.gradients import clip, squared_gradients, synchronise
from amberline.training.optimizers import make_optimizer, set_learning_rate
from amberline.training.speed import peak_flops

RECIPE = check_recipe(read_recipe([PUBLISHED]), files=False)


def trainings(recipe: Recipe) -> dict[str, str]:
    """The recipe's trained models by what they learn from: conversations, preferred responses, and pairs."""
    models = [(recipe.node(name).train, name) for name in recipe.trained]
    (chat, preferred), (pairs,) = ([name for train, name in models if train == each] for each in ("sft", "dpo"))
    return {"chat": chat, "preferred": preferred, "pairs": pairs}


TRAINED = trainings(RECIPE)
AMBER = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "layers": 32, "heads": 32}
SMALL = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 172, "layers": 2, "heads": 4}
DEPTHS = (32, 24, 16, 12, 8, 4)  # layers of the model, where all do not fit
CONTEXT_BYTES = 1.5 * 2**30  # what CUDA and its libraries take of a card beside torch's tensors
PAIR = (18, 65, 74)  # mean tokens of prompt, chosen and rejected response of PKU-SafeRLHF
PAIRS = 32  # in a step
NOISE = 2**20 + 7  # random numbers that the weights are made of: a prime


@dataclass(frozen=True)
class Layout:
    """How a step is computed."""

    tokens: int
    checkpointing: str
    compile: bool
    precision: str = "bfloat16"
    attention: str = "auto"

    def settings(self, kind: str) -> Training:
        """Those of a published training, computed in this precision."""
        return RECIPE.training(TRAINED[kind]).model_copy(update={"precision": self.precision})


class RandomWeights:
    """Weights of a Llama, made when they are asked for."""

    def __init__(self, config: LlamaConfig) -> None:
        with torch.device("meta"):
            self._shapes = {
                name: each.shape for name, each in transformers.LlamaForCausalLM(config).state_dict().items()
            }
        self._noise = torch.randn(NOISE) * 0.02

    def shapes(self):
        return self._shapes

    def read(self, names):
        return {name: self._made(name) for name in names}

    def _made(self, name: str) -> torch.Tensor:
        shape = self._shapes[name]
        if "norm" in name:
            return torch.ones(shape)
        # The same numbers over and over, out of step with the rows: making so many would take a minute.
        return self._noise.repeat(-(-shape.numel() // len(self._noise)))[: shape.numel()].view(shape)


def llama(shape: dict[str, int], layers: int | None = None) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=layers or shape["layers"],
        num_attention_heads=shape["heads"],
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )


def write_model(folder: Path, config: LlamaConfig) -> None:
    torch.manual_seed(0)
    config.save_pretrained(folder)
    write_safetensors(RandomWeights(config), folder, torch.bfloat16)


def chat_batch(tokens: int, vocabulary: int, random: np.random.Generator) -> PackedBatch:
    """Documents of up to 2048 tokens, nearly uniform in length like split conversations; three quarters are targets."""
    examples, left = [], tokens
    while left > 0:
        length = min(left, int(random.integers(64, 2049)))
        ids = random.integers(0, vocabulary, length)
        examples.append((ids, np.where(random.random(length) < 0.25, -100, ids), 1 / tokens))
        left -= length
    return pack(examples)


def pair_batch(pairs: int, vocabulary: int, random: np.random.Generator) -> PackedBatch:
    examples = []
    for _ in range(pairs):
        prompt = random.integers(0, vocabulary, PAIR[0])
        for length in PAIR[1:]:
            ids = np.concatenate([prompt, random.integers(0, vocabulary, max(2, int(random.gamma(2, length / 2))))])
            examples.append((ids, np.where(np.arange(len(ids)) < len(prompt), -100, ids), 1.0))
    return pack(examples)


class Bench:
    """The machine: this process's device, and how time and memory are taken there."""

    def __init__(self, check: bool) -> None:
        self.check = check
        self.cuda = torch.cuda.is_available() and not check
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if self.cuda else torch.device("cpu")
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        if self.cuda:
            torch.cuda.set_device(self.device)
        backend = "cpu:gloo,cuda:nccl" if self.cuda else "gloo"
        if "RANK" in os.environ:
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        self.mesh = init_device_mesh(self.device.type, (self.world,))
        self.name = torch.cuda.get_device_name(self.device) if self.cuda else "CPU"
        if check:
            from cpu_kernels import register

            register()

    @property
    def shape(self) -> dict[str, int]:
        return SMALL if self.check else AMBER

    def agreed(self, value: Any) -> Any:
        """What the first process has, on all of them: they must take the same turns."""
        shared = [value]
        dist.broadcast_object_list(shared)
        return shared[0]

    @property
    def pairs(self) -> int:
        """Those of a DPO step that fall to this process."""
        return 4 if self.check else max(1, PAIRS // self.world)

    @cached_property
    def memory(self) -> float:
        """Bytes that tensors may take."""
        if self.cuda:
            return torch.cuda.get_device_properties(self.device).total_memory - CONTEXT_BYTES
        return psutil.virtual_memory().available

    def attention(self, layout: Layout, config: LlamaConfig) -> str:
        """The kernel in use: in a check, the stand-in of the one that CUDA would use."""
        device = torch.device("cuda") if self.check and layout.attention == "auto" else self.device
        return choose_attention(layout.attention, device, getattr(torch, layout.precision), head_width(config))[0]

    def lighter(self, layout: Layout) -> Layout:
        """Compiling takes a CPU longer than all else together: a check does so where it is what is checked."""
        return replace(layout, compile=False) if self.check else layout

    def compiling(self) -> contextlib.AbstractContextManager[None]:
        """In a check, what is compiled is traced, differentiated and cut up, and then run as it is."""
        return _compile_without_code() if self.check else contextlib.nullcontext()

    def seconds(self, work: Callable[[], Any]) -> float:
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def reset(self) -> None:
        gc.collect()
        torch._dynamo.reset()
        counters.clear()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peaks(self) -> dict[str, int]:
        """Bytes of all tensors, and of what torch has taken of the card for them."""
        if self.cuda:
            return {"peak_bytes": torch.cuda.max_memory_allocated(), "reserved_bytes": torch.cuda.max_memory_reserved()}
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"peak_bytes": resident, "reserved_bytes": resident}

    @cached_property
    def ceilings(self) -> dict[str, Rates]:
        """By precision, float32 in TF32: the best of several large matrix products, and of several large copies."""
        source = torch.empty(2**30 if self.cuda else 2**24, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        copy = min(self.seconds(lambda: target.copy_(source)) for _ in range(10))
        traffic = 2 * source.numel() / copy
        return {name: Rates(self._product_flops(name), traffic) for name in ("bfloat16", "float32")}

    def _product_flops(self, precision: str) -> float:
        size = 8192 if self.cuda else 512
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        left, right = (torch.randn(size, size, device=self.device, dtype=getattr(torch, precision)) for _ in range(2))
        product = min(self.seconds(lambda: left @ right) for _ in range(10))
        torch.set_float32_matmul_precision(before)
        return 2 * size**3 / product


@contextlib.contextmanager
def _compile_without_code() -> Iterator[None]:
    compile = torch.compile
    torch.compile = partial(compile, backend="aot_eager")
    try:
        yield
    finally:
        torch.compile = compile


def most_layers(bench: Bench, layout: Layout, kind: str) -> int:
    """Layers of the deepest model that this layout has room for; 0 if there is none."""
    if bench.check:
        return SMALL["layers"]
    needed = {layers: predicted_bytes(bench, llama(AMBER, layers), layout, kind) for layers in DEPTHS}
    return next((layers for layers in DEPTHS if needed[layers] <= bench.memory), 0)


def predicted_bytes(bench: Bench, config: LlamaConfig, layout: Layout, kind: str) -> float:
    """Peak memory of the tensors of a process. A step of pairs is one micro-batch, which accumulates nothing."""
    settings = layout.settings(kind)
    return estimates.peak_bytes(
        sizes_of(config),
        layout.checkpointing,
        moments=moments(settings),
        compute_bytes=compute_bytes(settings),
        shards=bench.world,
        reshard=False,
        accumulated="nothing" if kind == "pairs" else "whole",
        device=bench.device.type,
        tokens=layout.tokens,
        softmaxes=0,
    )


def predicted_seconds(
    bench: Bench, config: LlamaConfig, layout: Layout, kind: str, lengths: list[int], targets: int
) -> float:
    """Time of an optimizer step over documents of these lengths, at the rates of this card."""
    settings, rates = layout.settings(kind), bench.ceilings[layout.precision]
    sizes = sizes_of(config)
    seconds = estimates.passes_seconds(
        sizes,
        layout.checkpointing,
        compute_bytes(settings),
        bench.device.type,
        rates,
        lengths=lengths,
        targets=targets,
    )
    return seconds + estimates.optimizer_seconds(sizes, moments=moments(settings), shards=bench.world, rates=rates)


class Steps:
    """A model with its optimizer, and the optimizer steps of a published training."""

    def __init__(self, bench: Bench, folder: Path, layout: Layout, kind: str) -> None:
        bench.reset()
        self.bench, self.config, self.settings = bench, read_config(folder), layout.settings(kind)
        torch.set_float32_matmul_precision("high" if self.settings.tf32 else "highest")
        with bench.compiling():
            self.model = load_model(
                folder,
                device=bench.device,
                mesh=bench.mesh if bench.world > 1 else None,
                compute_dtype=getattr(torch, layout.precision),
                attention=bench.attention(layout, self.config),
                activation_checkpointing=layout.checkpointing,
                reshard_after_forward=False,
                compile=layout.compile,
            )
        self.optimizer = make_optimizer(self.model, self.settings.optimizer)
        set_learning_rate(self.optimizer, self.settings.learning_rate)
        self.losses: list[float] = []
        self.random = np.random.default_rng(dist.get_rank())

    def take(self, micro_batches: list[Callable[[], torch.Tensor]]) -> None:
        """One optimizer step of these losses."""
        total = torch.zeros((), dtype=torch.float64, device=self.bench.device)
        for number, loss_of in enumerate(micro_batches):
            synchronise(self.model, last=number + 1 == len(micro_batches), keep_gathered=True)
            loss = loss_of()
            loss.backward()
            total += loss.detach()
        loss, squares = torch.stack([total, squared_gradients(self.model)]).tolist()
        if self.bench.world > 1:
            both = torch.tensor([squares], dtype=torch.float64)
            dist.all_reduce(both)
            squares = both.item()
        clip(self.model, math.sqrt(squares), self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(loss)


class ChatSteps(Steps):
    """Steps of AmberChat: packed conversations."""

    def __init__(self, bench: Bench, folder: Path, layout: Layout, micro_batches: int) -> None:
        super().__init__(bench, folder, layout, "chat")
        self.batches = [chat_batch(layout.tokens, self.config.vocab_size, self.random) for _ in range(micro_batches)]

    def step(self) -> None:
        count = len(self.batches)
        self.take([partial(self._loss, batch, count) for batch in self.batches])

    def _loss(self, batch: PackedBatch, count: int) -> torch.Tensor:
        return weighted_loss(self.model, batch.to(self.bench.device)) / count


class PairSteps(Steps):
    """DPO steps of 32 pairs in one micro-batch over all processes, the reference's log-probabilities being known."""

    def __init__(self, bench: Bench, folder: Path, layout: Layout) -> None:
        super().__init__(bench, folder, layout, "pairs")
        self.batches = [pair_batch(bench.pairs, self.config.vocab_size, self.random)]
        with inference(self.model):
            self.reference = self._logps()

    def step(self) -> None:
        self.take([self._loss])

    def _logps(self) -> torch.Tensor:
        batch = self.batches[0].to(self.bench.device)
        return document_logps(token_logps(self.model, batch).double(), batch)

    def _loss(self) -> torch.Tensor:
        margins = self._logps() - self.reference
        wins = torch.nn.functional.logsigmoid(self.settings.beta * (margins[0::2] - margins[1::2]))
        return -wins.sum() / (self.bench.pairs * self.bench.world)


# What is likely to be the fastest, and what needs no recomputation; of pairs the tokens are what they are.
BEST_CHAT = Layout(8192, "selective", compile=True)
PLAIN_CHAT = Layout(4096, "none", compile=True)
PAIRS_LAYOUT = Layout(0, "none", compile=True, precision="float32")


def sized(bench: Bench, kind: str, layout: Layout) -> Layout:
    """The layout with the tokens that it has here."""
    if kind == "pairs":
        return replace(layout, tokens=sum((*PAIR[1:], 2 * PAIR[0])) * bench.pairs)
    return replace(layout, tokens=layout.tokens // 32) if bench.check else layout


@contextlib.contextmanager
def started(bench: Bench, folder: Path, kind: str, layout: Layout, micro_batches: int = 2) -> Iterator[Steps]:
    """A training that is about to take steps; afterwards, nothing of it is left."""
    layout = sized(bench, kind, layout)
    try:
        if kind == "pairs":
            yield PairSteps(bench, folder, layout)
        else:
            yield ChatSteps(bench, folder, layout, micro_batches)
    finally:
        bench.reset()


def measured(
    bench: Bench, folder: Path, kind: str, layout: Layout, *, steps: int = 3, micro_batches: int = 2
) -> dict[str, Any]:
    """What some optimizer steps take; the first one warms up and compiles. What cannot fit is not begun."""
    config, here = read_config(folder), sized(bench, kind, layout)
    needed = predicted_bytes(bench, config, here, kind)
    if bench.agreed(needed > bench.memory):
        return asdict(here) | {"failed": f"does not fit: {needed / 2**30:.0f} of {bench.memory / 2**30:.0f} GiB"}
    try:
        with started(bench, folder, kind, layout, micro_batches) as taken:
            times = [bench.seconds(taken.step) for _ in range(steps + 1)]
            return _figures(bench, kind, here, taken, times)
    except torch.OutOfMemoryError:
        return asdict(here) | {"failed": "out of memory"}


def _figures(bench: Bench, kind: str, layout: Layout, taken: Steps, times: list[float]) -> dict[str, Any]:
    seconds = statistics.median(times[1:])
    lengths = [int(each) for batch in taken.batches for each in batch.cu_seqlens.diff()]
    targets = sum(len(batch.targets) for batch in taken.batches)
    peak = peak_flops(bench.device, layout.precision, taken.settings.tf32)
    flops = estimates.training_flops(sizes_of(taken.config), lengths)
    expected = predicted_seconds(bench, taken.config, layout, kind, lengths, targets)
    return {
        **asdict(layout),
        "layers": taken.config.num_hidden_layers,
        "kernel": bench.attention(layout, taken.config),
        "first_step_seconds": times[0],
        "step_seconds": seconds,
        "tokens_per_second_per_gpu": sum(lengths) / seconds,
        **({"pairs_per_second": len(lengths) / 2 * bench.world / seconds} if kind == "pairs" else {}),
        "strict_mfu": flops / seconds / peak if peak else None,
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
        **bench.peaks(),
        "predicted_bytes": predicted_bytes(bench, taken.config, layout, kind),
        "predicted_step_seconds": expected,
        "efficiency": expected / seconds,  # what training/speed.py wants to know of each kind of card
        "losses": taken.losses,
    }


def told_ceilings(bench: Bench) -> dict[str, float]:
    half, whole = bench.ceilings["bfloat16"], bench.ceilings["float32"]
    return {"matmul_flops": half.flops, "tf32_matmul_flops": whole.flops, "copy_bytes": half.traffic}


def be_deterministic(bench: Bench) -> None:
    hardware = RECIPE.hardware("train").model_copy(update={"deterministic": True})
    settle_determinism(hardware, bench.device)


def agreement(bench: Bench, folder: Path, fastest: Layout, steps: int) -> dict[str, Any]:
    """The same steps with plain settings and with the fastest ones: how far their losses are apart at most."""
    plain = replace(fastest, checkpointing="full", compile=False, attention="sdpa")
    runs = {
        name: measured(bench, folder, "chat", layout, steps=steps - 1, micro_batches=1)
        for name, layout in (("plain", plain), ("fastest", fastest))
    }
    if failed := [name for name, run in runs.items() if "failed" in run]:
        return runs | {"failed": f"{failed[0]}: {runs[failed[0]]['failed']}"}
    losses = zip(runs["plain"]["losses"], runs["fastest"]["losses"], strict=True)
    return runs | {"steps": steps, "loss_apart": max(abs(one - other) / one for one, other in losses)}
