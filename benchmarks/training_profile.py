"""Where the time of a training step on a CPU goes, and what its matrix products take by themselves.

    python benchmarks/training_profile.py

The model and the micro-batches are those of the training benchmarks, on one thread. Every operation is timed as it is
dispatched, in processor time, which other programs on the machine lengthen little. Of each kind of work the fastest of
several steps counts. The operations of a backward pass are of the kind that the forward pass was.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
import workload
from contest import machine, write_result
from torch.nn.functional import logsigmoid
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama import modeling_llama

from amberline.batches.layout import lay_out
from amberline.model import attention, logps
from amberline.model.forward import document_logps, token_logps, weighted_loss
from amberline.model.load import load_model
from amberline.model.packed import PackedBatch, pack
from amberline.recipe.check import check_recipe
from amberline.recipe.files import PUBLISHED, read_recipe
from amberline.training.gradients import clip, squared_gradients
from amberline.training.optimizers import make_optimizer, set_learning_rate

RECIPE = check_recipe(read_recipe([PUBLISHED]), files=False)
EXAMPLES = {"sft": 8, "dpo": 32}
TOKENS = {"sft": 3072, "dpo": 4096}  # of a micro-batch, as in the training benchmarks
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "mkldnn::_linear_pointwise")
ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"

# The kinds of work, in the order of the table. An operation is of the innermost kind around it.
HEAD = "output head: softmax, its gradient, copies of pieces"
OTHER = "residual sums, reshaping, all else"
BETWEEN = "Python and dispatch, between operations"
KINDS = (
    "matrix products of layers",
    "matrix products of the output head",
    "attention, its products among it",
    HEAD,
    "norms",
    "rotary embedding",
    "SiLU and gate of the MLP",
    "attention's documents: cutting and laying together",
    "embedding",
    "optimizer, norm, clipping",
    OTHER,
    BETWEEN,
)
LAYERS, OF_HEAD, ATTEND, _, NORMS, ROTARY, SILU, DOCUMENTS, EMBEDDING, OPTIMIZER, _, _ = KINDS


def batches(stage: str) -> list[PackedBatch]:
    """A step's micro-batches."""
    if stage == "sft":
        rows = workload.conversations(EXAMPLES[stage])
        documents = [[(row["input_ids"], row["labels"], 1e-3)] for row in rows]
    else:
        documents = [
            [
                (row["prompt"] + row[side], [-100] * len(row["prompt"]) + row[side], 1.0)
                for side in ("chosen", "rejected")
            ]
            for row in workload.pairs(EXAMPLES[stage])
        ]
    lengths = [sum(len(ids) for ids, _, _ in each) for each in documents]
    layout = lay_out(lengths, TOKENS[stage], 1)[0]
    return [pack([document for each in part for document in documents[each]]) for part in layout]


def margins(model: torch.nn.Module, batch: PackedBatch) -> torch.Tensor:
    """How much likelier each pair's chosen response is, as a difference of log-probabilities."""
    documents = document_logps(token_logps(model, batch).double(), batch)
    return documents[0::2] - documents[1::2]


def loss(model: torch.nn.Module, batch: PackedBatch, reference: torch.Tensor | None) -> torch.Tensor:
    """Of SFT; with the margins of a reference, of DPO."""
    if reference is None:
        return weighted_loss(model, batch)
    return -logsigmoid(0.1 * (margins(model, batch) - reference)).mean()


class Timed(TorchDispatchMode):
    """Processor seconds of all operations by kind, and how often there is each matrix product, by name and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: Counter[str] = Counter()
        self.products: Counter[tuple[Any, ...]] = Counter()
        self._inside = [OTHER]
        self._numbers: list[tuple[int, int, str]] = []  # autograd's numbers of the operations of a kind, inner first

    def __torch_dispatch__(self, operation: Any, _: Any, arguments: Any = (), options: Any = None) -> Any:
        start = time.thread_time()
        result = operation(*arguments, **(options or {}))
        seconds = time.thread_time() - start
        kind, name = self._kind(), operation._schema.name
        if name in PRODUCTS:
            kind = OF_HEAD if kind == HEAD else LAYERS
            self.products[name, *(tuple(each.shape) for each in arguments if isinstance(each, torch.Tensor))] += 1
        elif name.startswith(ATTENTION):
            kind = ATTEND
        self.seconds[kind] += seconds
        return result

    def _kind(self) -> str:
        node = torch._C._current_autograd_node()
        if node is None:
            return self._inside[-1]
        number = node._sequence_nr()
        return next((kind for first, end, kind in self._numbers if first <= number < end), OTHER)

    @contextmanager
    def of_kind(self, kind: str) -> Iterator[None]:
        first = torch._C._autograd._get_sequence_nr()
        self._inside.append(kind)
        yield
        self._inside.pop()
        self._numbers.append((first, torch._C._autograd._get_sequence_nr(), kind))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time what is done, and know of what kind it is."""

        def named(owner: Any, name: str, kind: str) -> Any:
            whole = getattr(owner, name)

            def call(*arguments: Any, **options: Any) -> Any:
                with self.of_kind(kind):
                    return whole(*arguments, **options)

            return patch.object(owner, name, call)

        with (
            named(torch.nn.RMSNorm, "forward", NORMS),
            named(torch.nn.Embedding, "forward", EMBEDDING),
            named(modeling_llama, "apply_rotary_pos_emb", ROTARY),
            named(modeling_llama.LlamaMLP, "forward", SILU),
            named(attention, "_sdpa", DOCUMENTS),
            named(logps, "log_probabilities", HEAD),
            named(logps, "weighted_loss", HEAD),
            named(Updates, "take", OPTIMIZER),
            self,
        ):
            yield


class Updates:
    """Norm, clipping and the optimizer's update."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def take(self) -> None:
        clip(self.model, float(squared_gradients(self.model)) ** 0.5, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def take_step(
    model: torch.nn.Module, updates: Updates, work: list[PackedBatch], references: list[torch.Tensor | None]
) -> None:
    for batch, reference in zip(work, references, strict=True):
        loss(model, batch, reference).backward()
    updates.take()


def alone(products: Counter[tuple[Any, ...]], repeats: int) -> float:
    """Seconds of matrix products of these shapes, each the fastest of several."""
    seconds = 0.0
    for (name, *shapes), count in products.items():
        tensors = [torch.randn(shape) for shape in shapes if shape]
        multiply = {
            "aten::mm": lambda left, right, *_: torch.mm(left, right),  # a third one is the output
            "aten::bmm": torch.bmm,
            "aten::addmm_": lambda total, left, right: total.addmm_(left, right),
            "aten::addmm": torch.addmm,
            "mkldnn::_linear_pointwise": lambda left, right: torch.ops.mkldnn._linear_pointwise(
                left, right, None, "none", [], ""
            ),
        }[name]
        times = []
        for _ in range(repeats + 1):
            start = time.thread_time()
            multiply(*tensors)
            times.append(time.thread_time() - start)
        seconds += count * min(times[1:])
    return seconds


def measure(stage: str, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        workload.write_model(Path(place))
        model = load_model(Path(place), device="cpu")
    name = next(name for name in RECIPE.trained if RECIPE.node(name).train == stage)
    settings = RECIPE.training(name)
    optimizer = make_optimizer(model, settings.optimizer)
    # A model that learns too fast has gradients too small for normal numbers, which are multiplied slowly.
    set_learning_rate(optimizer, settings.learning_rate)
    work = batches(stage)
    # As in a training the model starts where its reference is: without one, pairs of unlike lengths have gradients as
    # small as e⁻¹⁰⁰.
    with torch.no_grad():
        references = [margins(model, batch) if stage == "dpo" else None for batch in work]
    step = partial(take_step, model, Updates(model, optimizer), work, references)
    step()
    runs, whole, products = [], [], []
    for _ in range(repeats):
        start = time.thread_time()
        step()
        whole.append(time.thread_time() - start)
        timed = Timed()
        with timed.watching():
            step()
        runs.append(timed.seconds)
        products.append(alone(timed.products, repeats=3))
    fastest = {kind: min(run[kind] for run in runs) for kind in KINDS}
    fastest[BETWEEN] = max(0.0, min(whole) - sum(fastest.values()))
    total = sum(fastest.values())
    found = {
        "tokens": sum(len(batch.input_ids) for batch in work),
        "targets": sum(len(batch.targets) for batch in work),
        "micro_batches": len(work),
        "seconds": total,
        "shares": {kind: seconds / total for kind, seconds in fastest.items()},
        "products_alone": min(products) / total,
    }
    for kind, share in found["shares"].items():
        print(f"{stage}: {kind}: {share:.1%}", flush=True)
    print(f"{stage}: {total:.2f} s; its products alone {found['products_alone']:.1%}", flush=True)
    return found


def main(
    repeats: Annotated[int, typer.Option(help="steps that are timed, of each training")] = 5,
) -> None:
    """Take steps of SFT and of DPO apart."""
    torch.set_num_threads(1)
    result = {
        "machine": machine(),
        "versions": {"torch": torch.__version__},
        "settings": {"repeats": repeats, "threads": 1},
        "stages": {stage: measure(stage, repeats) for stage in EXAMPLES},
    }
    write_result("training_profile", result)


if __name__ == "__main__":
    typer.run(main)
