"""Whether attention's kernels are right on this card, how fast they are, and how fast matrix products are.

Everything is held against float64 attention, one document at a time. What is called is what the models call.
"""

from collections.abc import Callable, Iterator
from typing import Any

import gpu_steps
import torch
from gpu_steps import Bench
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from amberline.model.attention import document_attention
from amberline.model.checkpointing import _kept_operations
from amberline.training.optimizers import make_optimizer, set_learning_rate

MIXED = [1, 2, 3, 17, 64, 65, 127, 128, 129, 500, 1012]
PACKS = {"one": [2048], "mixed": MIXED, "pairs": [90] * 56, "windowed": MIXED}
WINDOWS = {"windowed": 50}  # tokens that each one sees, itself included
HEADS, WIDTH = 32, 128
# Relative errors, forward and backward, that are still rounding.
BOUNDS = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
KERNELS = (
    ("varlen", torch.bfloat16),
    ("efficient", torch.float32),
    ("efficient", torch.bfloat16),
    ("sdpa", torch.float32),
)
PRODUCT_TOKENS = (640, 5632, 8192)


class Seen(TorchDispatchMode):
    """Operations that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[Any] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations.add(func)
        return func(*args, **(kwargs or {}))


class Pack:
    """Documents of random queries, keys and values, and a gradient of the result."""

    def __init__(self, bench: Bench, lengths: list[int], dtype: torch.dtype, window: int | None = None) -> None:
        self.lengths = [length for length in lengths if length < 200][:6] or [64] if bench.check else lengths
        self.window = window
        heads, width = (2, 16) if bench.check else (HEADS, WIDTH)
        torch.manual_seed(0)
        shape = (1, heads, sum(self.lengths), width)
        *self.inputs, grad = (torch.randn(shape, device=bench.device).to(dtype) for _ in range(4))
        self.grad = grad.transpose(1, 2)
        for each in self.inputs:
            each.requires_grad_()
        borders = torch.tensor([0, *self.lengths]).cumsum(0)
        self.borders = borders.to(bench.device, torch.int32)
        self.scale = width**-0.5

    def attend(self, kind: str) -> torch.Tensor:
        result, _ = document_attention(
            torch.nn.Module(),
            *self.inputs,
            None,
            scaling=self.scale,
            cu_seqlens=self.borders,
            max_length=max(self.lengths),
            kind=kind,
            sliding_window=self.window,
        )
        return result

    def exact(self) -> tuple[torch.Tensor, ...]:
        """The result and its gradients in float64."""
        inputs = [each.detach().double().requires_grad_() for each in self.inputs]
        pieces = zip(*(each.split(self.lengths, dim=2) for each in inputs), strict=True)
        outputs = [
            scaled_dot_product_attention(*each, attn_mask=self.seen(each[0].shape[2]), scale=self.scale)
            for each in pieces
        ]
        output = torch.cat(outputs, dim=2).transpose(1, 2)
        return output, *torch.autograd.grad(output, inputs, self.grad.double())

    def seen(self, length: int) -> torch.Tensor:
        """Which tokens of a document each one sees."""
        every = torch.ones(length, length, dtype=torch.bool, device=self.borders.device)
        return every.tril().triu(1 - (self.window or length))

    def gradients(self, output: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(output, self.inputs, self.grad)


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm())


def hold_against_exact(bench: Bench, kind: str, dtype: torch.dtype, documents: str) -> dict[str, Any]:
    """Errors, time, and whether selective checkpointing would keep what was run."""
    pack = Pack(bench, PACKS[documents], dtype, WINDOWS.get(documents))
    with Seen() as seen:
        output = pack.attend(kind)
    forward, *backward = map(apart, (output, *pack.gradients(output)), pack.exact())
    errors = {"forward": forward, "backward": max(backward)}
    repeats = 1 if bench.check else 20
    seconds = bench.seconds(lambda: [pack.gradients(pack.attend(kind)) for _ in range(repeats)])
    kept = sorted(str(each) for each in seen.operations & _kept_operations())
    right = max(errors.values()) <= BOUNDS[dtype] and bool(kept)
    return {**errors, "kept": kept, "milliseconds": 1000 * seconds / repeats, "right": right}


def refusal(bench: Bench) -> dict[str, Any]:
    """Flash attention in float32 must raise, and not compute something."""
    try:
        Pack(bench, PACKS["one"], torch.float32).attend("varlen")
    except RuntimeError as error:
        return {"raises": str(error).splitlines()[0], "right": True}
    return {"raises": None, "right": False}


def product_rate(bench: Bench, dtype: torch.dtype, tokens: int, tf32: bool) -> dict[str, Any]:
    """FLOP/s of the largest product of a layer of the 6.7B model."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    width, inner = (64, 172) if bench.check else (4096, 11008)
    left = torch.randn(tokens, width, device=bench.device).to(dtype)
    right = torch.randn(width, inner, device=bench.device).to(dtype)
    repeats = 2 if bench.check else 20
    bench.seconds(lambda: left @ right)
    seconds = bench.seconds(lambda: [left @ right for _ in range(repeats)])
    return {"flops": 2 * tokens * width * inner * repeats / seconds}


def update(bench: Bench, name: str) -> dict[str, Any]:
    """An optimizer's update of some matrices of the 6.7B model, against torch's own foreach form of it: how far apart
    the weights are after three updates with a rate that moves them by much, and how long either takes."""
    shape, count = ((64, 172), 2) if bench.check else ((4096, 11008), 12)
    settings = gpu_steps.RECIPE.training(gpu_steps.TRAINED["chat" if name == "adamw" else "pairs"]).optimizer
    plain = torch.optim.AdamW if name == "adamw" else torch.optim.RMSprop
    torch.manual_seed(0)
    ours = torch.nn.ParameterList([torch.randn(shape, device=bench.device) for _ in range(count)])
    theirs = torch.nn.ParameterList([each.detach().clone() for each in ours])
    for mine, other in zip(ours, theirs, strict=True):
        mine.grad = torch.randn_like(mine) * 1e-3
        other.grad = mine.grad.clone()
    taken, milliseconds = (make_optimizer(ours, settings), plain(theirs.parameters(), foreach=True, weight_decay=0)), []
    for optimizer in taken:
        set_learning_rate(optimizer, 1e-3)
        milliseconds.append(1000 * min(bench.seconds(optimizer.step) for _ in range(3)))
    worst = max(map(apart, ours, theirs))
    return {"apart": worst, "milliseconds": milliseconds[0], "foreach": milliseconds[1], "right": worst < 1e-6}


def figures(bench: Bench) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Each figure's name, and what finds it."""
    yield "flash attention in float32", lambda: refusal(bench)
    for pack in PACKS:
        for kind, dtype in KERNELS:
            name = f"{kind} {str(dtype).removeprefix('torch.')}, {pack}"
            yield name, lambda kind=kind, dtype=dtype, pack=pack: hold_against_exact(bench, kind, dtype, pack)
    for tokens in PRODUCT_TOKENS:
        for name, dtype, tf32 in (("bfloat16", torch.bfloat16, False), ("tf32", torch.float32, True)):
            work = lambda dtype=dtype, tokens=tokens, tf32=tf32: product_rate(bench, dtype, tokens, tf32)  # noqa: E731
            yield f"products in {name}, {tokens} tokens", work
    for name in ("adamw", "rmsprop"):
        yield f"update, {name}", lambda name=name: update(bench, name)
