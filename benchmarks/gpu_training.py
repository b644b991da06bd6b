"""Training speed of a 6.7B Llama of random weights on one GPU or several, against what the machine can do at most.

    python benchmarks/gpu_training.py --output gpu.json                      # one GPU
    torchrun --nproc-per-node 8 benchmarks/gpu_training.py --output gpu.json
    python benchmarks/gpu_training.py --check --output check.json            # the same code, small, on the CPU

Synthetic documents, packed; bfloat16 compute with float32 weights, gradients and AdamW. Sweeps the tokens of a
micro-batch, checkpointing and compilation; each line says tokens a second, strict MFU (6 · parameters in matrix
products, input embeddings excluded, plus causal attention, over the peak), peak memory, and what was predicted: of the
time, by two ceilings that are measured in the same run, a large matrix product and a large copy. What runs out of
memory is reported as that. The sweep stops after --minutes. Last, 20 steps of the fastest layout are held against the
same steps with plain settings: everything recomputed, nothing compiled, one call of attention a document. Runs with
torch 2.11 and transformers 5.17 as well as the locked versions.
"""

import gc
import itertools
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
import transformers
import typer
from torch.distributed.device_mesh import init_device_mesh
from transformers import LlamaConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from amberline.model import estimates
from amberline.model.attention import choose_attention
from amberline.model.estimates import Rates
from amberline.model.files import WeightFiles, read_config
from amberline.model.forward import document_logps, inference, token_logps, weighted_loss
from amberline.model.load import load_model
from amberline.model.packed import PackedBatch, pack
from amberline.model.weights import write_safetensors

AMBER = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "layers": 32, "heads": 32}
SMALL = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 172, "layers": 2, "heads": 4}
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # dense bfloat16, makers' data sheets
PAIR = (18, 65, 74)  # mean tokens of prompt, chosen and rejected response of PKU-SafeRLHF
AGREEMENT_STEPS = 20  # of the fastest layout, held against plain settings


@dataclass(frozen=True)
class Layout:
    """One point of the sweep."""

    tokens: int
    checkpointing: str
    compile: bool
    attention: str = "auto"


class RandomWeights:
    """Weights of a Llama, made when they are asked for."""

    def __init__(self, config: LlamaConfig) -> None:
        with torch.device("meta"):
            self._shapes = {
                name: each.shape for name, each in transformers.LlamaForCausalLM(config).state_dict().items()
            }

    def shapes(self):
        return self._shapes

    def read(self, names):
        return {
            name: torch.ones(self._shapes[name]) if "norm" in name else torch.randn(self._shapes[name]) * 0.02
            for name in names
        }


def write_model(folder: Path, shape: dict[str, int]) -> None:
    config = LlamaConfig(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )
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
        self.peak = next((peak for part, peak in PEAKS.items() if part in self.name), None)

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
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        if self.cuda:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    @cached_property
    def ceilings(self) -> Rates:
        """The best of several: a large matrix product in bfloat16, and a large copy."""
        size = 8192 if self.cuda else 512
        left, right = (torch.randn(size, size, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        source = torch.empty(2**30 if self.cuda else 2**24, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        product = min(self.seconds(lambda: left @ right) for _ in range(10))
        copy = min(self.seconds(lambda: target.copy_(source)) for _ in range(10))
        return Rates(2 * size**3 / product, 2 * source.numel() / copy)


def measure_chat(bench: Bench, folder: Path, layout: Layout, steps: int, micro_batches: int) -> dict[str, Any]:
    """Optimizer steps of some micro-batches; the first one warms up and compiles."""
    bench.reset()
    config = read_config(folder)
    random = np.random.default_rng(dist.get_rank())
    try:
        model, optimizer = _start(bench, folder, layout)
        batches = [chat_batch(layout.tokens, config.vocab_size, random) for _ in range(micro_batches)]
        losses, times = [], []

        def step() -> None:
            total = 0.0
            for number, batch in enumerate(batches):
                model.set_requires_gradient_sync(number + 1 == len(batches))
                loss = weighted_loss(model, batch.to(bench.device)) / len(batches)
                loss.backward()
                total += loss.item()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(total)

        for _ in range(steps + 1):
            times.append(bench.seconds(step))
        seconds = statistics.median(times[1:])
        lengths = [int(each) for batch in batches for each in batch.cu_seqlens.diff()]
        flops = estimates.training_flops(config, lengths)
        return (
            asdict(layout)
            | {
                "first_step_seconds": times[0],
                "step_seconds": seconds,
                "tokens_per_second_per_gpu": sum(lengths) / seconds,
                "strict_mfu": flops / seconds / bench.peak if bench.peak else None,
                "peak_bytes": bench.peak_bytes(),
                "losses": losses,
            }
            | predicted(bench, config, layout, lengths, sum(len(batch.targets) for batch in batches))
        )
    except torch.OutOfMemoryError:
        return asdict(layout) | {"failed": "out of memory"}


def predicted(bench: Bench, config: LlamaConfig, layout: Layout, lengths: list[int], targets: int) -> dict[str, float]:
    """Peak memory, and the time of an optimizer step over documents of these lengths."""
    level, device = layout.checkpointing, bench.device.type
    needed = estimates.state_bytes(config, moments=2, compute_bytes=2, ranks=bench.world, reshard=False)
    needed += estimates.working_bytes(config, level, 2, device, tokens=layout.tokens, softmaxes=0)
    seconds = estimates.passes_seconds(config, level, 2, device, bench.ceilings, lengths=lengths, targets=targets)
    seconds += estimates.optimizer_seconds(config, moments=2, ranks=bench.world, rates=bench.ceilings)
    return {"predicted_bytes": needed, "predicted_step_seconds": seconds}


def measure_agreement(bench: Bench, folder: Path, fastest: Layout) -> dict[str, Any]:
    """The same steps with plain settings and with the fastest ones: how far their losses are apart at most."""
    layouts = {"plain": Layout(fastest.tokens, "full", compile=False, attention="sdpa"), "fastest": fastest}
    runs = {
        name: measure_chat(bench, folder, layout, AGREEMENT_STEPS - 1, micro_batches=1)
        for name, layout in layouts.items()
    }
    failed = [name for name, run in runs.items() if "failed" in run]
    if failed:
        return runs | {"failed": f"{failed[0]} ran out of memory"}
    losses = zip(runs["plain"]["losses"], runs["fastest"]["losses"], strict=True)
    return runs | {"steps": AGREEMENT_STEPS, "loss_apart": max(abs(plain - fast) / plain for plain, fast in losses)}


def measure_pairs(bench: Bench, folder: Path, layout: Layout, steps: int) -> dict[str, Any]:
    """DPO steps of 32 pairs in one micro-batch over all processes, the reference's log-probabilities being known."""
    bench.reset()
    config = read_config(folder)
    try:
        model, optimizer = _start(bench, folder, layout)
        random = np.random.default_rng(dist.get_rank())
        batch = pair_batch(max(1, 32 // bench.world), config.vocab_size, random).to(bench.device)
        with inference(model):
            reference = document_logps(token_logps(model, batch), batch)
        losses = []

        def step() -> None:
            margins = document_logps(token_logps(model, batch), batch) - reference
            loss = -torch.nn.functional.logsigmoid(0.1 * (margins[0::2] - margins[1::2])).sum() / 32
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())

        times = [bench.seconds(step) for _ in range(steps + 1)]
        seconds = statistics.median(times[1:])
        rate = batch.documents / 2 * bench.world / seconds
        return asdict(layout) | {"pairs_per_second": rate, "peak_bytes": bench.peak_bytes(), "losses": losses}
    except torch.OutOfMemoryError:
        return asdict(layout) | {"failed": "out of memory"}


def _start(bench: Bench, folder: Path, layout: Layout):
    torch._dynamo.reset()
    model = load_model(
        folder,
        device=bench.device,
        mesh=bench.mesh,
        compute_dtype=torch.bfloat16,
        attention=choose_attention(layout.attention, bench.device, torch.bfloat16, read_config(folder))[0],
        activation_checkpointing=layout.checkpointing,
        reshard_after_forward=False,
        compile=layout.compile,
    )
    return model, torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)


def agreed(value: Any) -> Any:
    """What the first process has, on all of them: they must take the same turns."""
    shared = [value]
    dist.broadcast_object_list(shared)
    return shared[0]


def show(kind: str, found: dict[str, Any], result: dict[str, Any], output: Path) -> None:
    """Print what was found, and write down all that has been so far."""
    if dist.get_rank() == 0:
        print(json.dumps({kind: {key: value for key, value in found.items() if key != "losses"}}), flush=True)
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main(
    output: Annotated[Path, typer.Option(help="JSON file to write, after every measurement")],
    check: Annotated[bool, typer.Option(help="a small model on the CPU, through the same code")] = False,
    tokens: Annotated[list[int], typer.Option(help="micro-batch sizes; may be repeated")] = [4096, 8192, 16384],  # noqa: B006
    steps: Annotated[int, typer.Option(help="optimizer steps of each measurement, after the first")] = 3,
    micro_batches: Annotated[int, typer.Option(help="in each step")] = 2,
    minutes: Annotated[float, typer.Option(help="begin no further layout after this time")] = 6,
    scratch: Annotated[Path | None, typer.Option(help="folder for 13 GB of random weights")] = None,
) -> None:
    """Sweep, print and write down."""
    began = time.monotonic()
    bench = Bench(check)
    if check:
        tokens = [256, 512]
    elif not bench.cuda:
        sys.exit("there is no GPU here; --check runs a small model on the CPU")
    result: dict[str, Any] = {
        "machine": {"device": bench.name, "processes": bench.world},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "ceilings": {"matmul_flops": bench.ceilings.flops, "copy_bytes": bench.ceilings.traffic},
        "chat": [],
        "pairs": [],
    }
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        folder = Path(agreed(place))
        if dist.get_rank() == 0:
            write_model(folder, SMALL if check else AMBER)
        dist.barrier()
        assert WeightFiles(folder).names()
        result["attention"] = choose_attention("auto", bench.device, torch.bfloat16, read_config(folder))
        # Plain first, then one technique after another, so that each one's gain is seen even if time runs out.
        layouts = [
            Layout(size, level, compiled)
            for compiled, level, size in itertools.product(
                (False,) if check else (False, True), ("full", "selective", "none"), tokens
            )
        ]
        for kind, layout in [("chat", each) for each in layouts] + [("pairs", layouts[-1])]:
            if agreed(time.monotonic() - began > 60 * minutes):
                result["stopped"] = f"after {minutes} minutes"
                break
            if kind == "chat":
                found = measure_chat(bench, folder, layout, steps, micro_batches)
            else:
                found = measure_pairs(bench, folder, layout, steps)
            result[kind].append(found)
            show(kind, found, result, output)
        done = agreed([each for each in result["chat"] if "failed" not in each])
        if done:
            fastest = max(done, key=lambda each: each["tokens_per_second_per_gpu"])
            layout = Layout(**{field.name: fastest[field.name] for field in fields(Layout)})
            result["agreement"] = measure_agreement(bench, folder, layout)
            show("agreement", result["agreement"], result, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    typer.run(main)
