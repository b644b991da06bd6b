"""Peak memory of each process while a model is loaded over several, against a full float32 copy.

python benchmarks/load_memory.py --output results.json
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import psutil
import torch
import torch.distributed as dist
import typer
from torch.distributed.device_mesh import init_device_mesh
from transformers import LlamaConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from amberline.model.load import load_model
from amberline.model.weights import write_safetensors

SIZES = {  # layers and width; the vocabulary is Llama's
    "300M": (18, 1024),
    "70M": (4, 768),
}


class RandomWeights:
    """Random weights of a Llama, made when they are asked for, so that making them needs no memory either."""

    def __init__(self, config: LlamaConfig) -> None:
        from transformers import LlamaForCausalLM

        with torch.device("meta"):
            self._shapes = {name: each.shape for name, each in LlamaForCausalLM(config).state_dict().items()}

    def shapes(self):
        return self._shapes

    def read(self, names):
        generator = torch.Generator().manual_seed(0)
        return {name: torch.randn(self._shapes[name], generator=generator) * 0.02 for name in names}


def write_model(folder: Path, size: str) -> int:
    """Write a model of random weights, in several files; returns its number of parameters."""
    layers, width = SIZES[size]
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        tie_word_embeddings=False,
    )
    config.save_pretrained(folder)
    weights = RandomWeights(config)
    write_safetensors(weights, folder, torch.float32, shard_bytes=300_000_000)
    return sum(shape.numel() for shape in weights.shapes().values())


def peak_bytes() -> int:
    """Largest resident memory of this process since the last reset."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def on_a_rank(rank: int, ranks: int, folder: Path, results: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(results / "store"), ranks), rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    dist.barrier()
    base = psutil.Process().memory_info().rss
    reset_peak()
    model = load_model(folder, device="cpu", mesh=mesh)
    peak = peak_bytes()
    held = sum(each.to_local().numel() * each.element_size() for each in model.parameters())
    (results / f"{rank}.json").write_text(json.dumps({"base": base, "peak": peak, "held": held}), encoding="utf-8")
    dist.destroy_process_group()


def measure(size: str, ranks: int) -> dict:
    """Load a model of that size over `ranks` processes; bytes by rank, and the largest peak above the base."""
    with tempfile.TemporaryDirectory() as place:
        folder, results = Path(place) / "model", Path(place) / "results"
        folder.mkdir()
        results.mkdir()
        parameters = write_model(folder, size)
        torch.multiprocessing.spawn(on_a_rank, (ranks, folder, results), nprocs=ranks)
        by_rank = [json.loads((results / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(ranks)]
    full = 4 * parameters
    return {
        "parameters": parameters,
        "ranks": ranks,
        "full_copy_bytes": full,
        "by_rank": by_rank,
        "peak_above_base_of_full_copy": max(each["peak"] - each["base"] for each in by_rank) / full,
    }


def main(
    output: Annotated[Path, typer.Option(help="JSON file to write")],
    size: Annotated[str, typer.Option(help=f"one of {', '.join(SIZES)}")] = "300M",
    ranks: Annotated[int, typer.Option(help="processes")] = 2,
) -> None:
    """Measure, print and write down."""
    found = measure(size, ranks)
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
