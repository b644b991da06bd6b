"""The first 15 minutes on a GPU: is it right, how fast is it, and is what was predicted so.

    python benchmarks/first_light.py                        # on a GPU: benchmarks/results/first_light-CARD.json
    python benchmarks/first_light.py --steps pairs,sft      # some steps; what the file has of the others stays
    python benchmarks/first_light.py --check --output check.json    # every step, small, on the CPU

Steps, in the order of their worth: attention's kernels against float64; the demo's trainings, two of them killed and
continued; DPO steps as published and in bfloat16; AmberChat's steps, their memory against what was predicted; what the
GPU waits for; the fastest layout against plain settings; the price of `deterministic`; a training that chooses its
layout. Each step is a process of its own that is killed at its time limit; its figures are written as they come. The
model is as deep as the card has room for, and a layout that cannot fit is never begun. Exits with 1 if something is
wrong or was not done.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

HERE = Path(__file__).resolve().parent
Record = Callable[[str, dict[str, Any]], None]
MINUTES = 15
# Seconds that each step may take of so many minutes, which all of them need where all goes well.
LIMITS = {
    "card": 120,
    "kernels": 120,
    "demo": 180,
    "pairs": 210,
    "sft": 240,
    "profile": 120,
    "agreement": 120,
    "deterministic": 120,
    "auto": 120,
}


def card(bench, folder: Path, record: Record) -> None:
    """What the card is, and the model that the steps train on it."""
    import gpu_steps
    import torch
    import transformers

    if not bench.cuda and not bench.check:
        sys.exit("there is no GPU here; --check runs a small model on the CPU")
    found = {"name": bench.name, "memory_bytes": bench.memory}
    if bench.cuda:
        found |= {
            "capability": torch.cuda.get_device_capability(),
            "cuda": torch.version.cuda,
            "allocator": os.environ["PYTORCH_ALLOC_CONF"],
        }
    layers = gpu_steps.most_layers(bench, gpu_steps.BEST_CHAT, "chat")
    rates = gpu_steps.told_ceilings(bench)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    record("card", found | rates | versions | {"layers": layers, "right": layers > 0})
    if layers:
        gpu_steps.write_model(folder / "model", gpu_steps.llama(bench.shape, layers))


def kernels(bench, _: Path, record: Record) -> None:
    """Attention against float64, and the rates of matrix products."""
    import gpu_kernels

    for name, find in gpu_kernels.figures(bench):
        try:
            found = find()
        except RuntimeError as error:  # what a kernel refuses is a figure, too
            found = {"failed": str(error).splitlines()[0][:300], "right": False}
        record(name, found)


def demo(bench, folder: Path, record: Record) -> None:
    """The product's programs, killed and continued."""
    import gpu_demo

    with tempfile.TemporaryDirectory(dir=folder) as place:
        gpu_demo.trained(bench, Path(place), record)


def auto(bench, folder: Path, record: Record) -> None:
    """The product's program at full width, which chooses its layout itself."""
    import gpu_demo

    with tempfile.TemporaryDirectory(dir=folder) as place:
        gpu_demo.chosen(bench, Path(place), record)


def pairs(bench, folder: Path, record: Record) -> None:
    """DPO steps: as published, in bfloat16, and both without compiling."""
    import gpu_steps

    published = gpu_steps.PAIRS_LAYOUT
    cheaper = bench.lighter(replace(published, precision="bfloat16"))
    for layout in (published, cheaper, replace(published, compile=False), replace(cheaper, compile=False)):
        name = f"{layout.precision}, {'compiled' if layout.compile else 'not compiled'}"
        record(name, _sound(gpu_steps.measured(bench, folder / "model", "pairs", layout)))


def sft(bench, folder: Path, record: Record) -> None:
    """AmberChat's steps: selective checkpointing, and none."""
    import gpu_steps

    for layout in (gpu_steps.BEST_CHAT, bench.lighter(gpu_steps.PLAIN_CHAT)):
        name = f"{layout.checkpointing}, {layout.tokens} tokens"
        record(name, _sound(gpu_steps.measured(bench, folder / "model", "chat", layout)))


def profile(bench, folder: Path, record: Record) -> None:
    """What the GPU waits for in either kind of step."""
    import gpu_profile
    import gpu_steps

    def profiled(kind: str, layout: gpu_steps.Layout) -> dict[str, Any]:
        with gpu_steps.started(bench, folder / "model", kind, bench.lighter(layout)) as taken:
            return gpu_profile.profiled(bench, taken)

    record("chat", profiled("chat", gpu_steps.BEST_CHAT))
    record("pairs", profiled("pairs", gpu_steps.PAIRS_LAYOUT))


def agreement(bench, folder: Path, record: Record) -> None:
    """The fastest layout against plain settings."""
    import gpu_steps

    layout = bench.lighter(gpu_steps.BEST_CHAT)
    found = gpu_steps.agreement(bench, folder / "model", layout, 3 if bench.check else 20)
    record("losses", found | {"right": found.get("loss_apart", 1) < 1e-2})


def deterministic(bench, folder: Path, record: Record) -> None:
    """The price of equal bits, and whether the bits are equal."""
    import gpu_steps

    # torch looks once, at the first matrix product.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    layout = bench.lighter(gpu_steps.BEST_CHAT)
    free = gpu_steps.measured(bench, folder / "model", "chat", layout)
    gpu_steps.be_deterministic(bench)
    runs = [gpu_steps.measured(bench, folder / "model", "chat", layout) for _ in range(2)]
    same = "losses" in runs[0] and runs[0]["losses"] == runs[1]["losses"]
    found: dict[str, Any] = {"free": free, "deterministic": runs[0], "same_losses": same, "right": same}
    if "step_seconds" in free and "step_seconds" in runs[0]:
        found["times_as_long"] = runs[0]["step_seconds"] / free["step_seconds"]
    record("chat", found)


STEPS = {each.__name__: each for each in (card, kernels, demo, pairs, sft, profile, agreement, deterministic, auto)}


def _sound(found: dict[str, Any]) -> dict[str, Any]:
    """Right is what ran with falling losses and, compiled, no graph broken; or what was not begun: it cannot fit."""
    if "losses" not in found:
        return found | {"right": found["failed"].startswith("does not fit")}
    whole = not found["compile"] or (found["graphs"] > 0 and found["graph_breaks"] == 0)
    return found | {"right": found["losses"][-1] < found["losses"][0] and whole}


def take_step(name: str, folder: Path, figures: Path, check: bool) -> None:
    """One step, in this process: each figure is a line of the file."""
    from gpu_steps import Bench

    def record(figure: str, found: dict[str, Any]) -> None:
        print(figure, json.dumps(found), flush=True)
        with figures.open("a", encoding="utf-8") as file:
            file.write(json.dumps({figure: found}) + "\n")

    STEPS[name](Bench(check), folder, record)


def run_step(name: str, folder: Path, check: bool, limit: float, note: Callable[[dict[str, Any]], None]) -> None:
    """A step as a process that is killed at its limit; `note` gets what is known of it, whenever there is more."""
    began = time.monotonic()
    figures, log = folder / f"{name}.jsonl", folder / f"{name}.log"
    figures.touch()
    options = ["--take", name, "--scratch", str(folder), *(["--check"] if check else [])]
    # As the launcher sets it: micro-batches of many sizes would leave holes otherwise.
    environment = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"} | os.environ
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, __file__, *options], stdout=output, stderr=output, env=environment, start_new_session=True
        )
    known = 0
    while (code := process.poll()) is None and time.monotonic() - began < limit:
        time.sleep(0.2)
        if figures.stat().st_size > known:
            known = figures.stat().st_size
            note({"ended": "not yet", "figures": read_figures(figures)})
    if code is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ended = f"killed at its limit of {limit:.0f} s" if code is None else "well" if code == 0 else f"with {code}"
    told = {} if code == 0 else {"log": log.read_text(encoding="utf-8", errors="replace")[-2000:]}
    note({"ended": ended, "seconds": time.monotonic() - began, "figures": read_figures(figures), **told})


def read_figures(path: Path) -> dict[str, Any]:
    """Whole lines only: a killed step may leave half of one."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return {name: found for line in lines for name, found in json.loads(line).items()}


def is_right(step: dict[str, Any]) -> bool:
    """Whether a step has ended well, with figures of which none is wrong."""
    figures = step["figures"].values()
    return step["ended"] == "well" and len(figures) > 0 and all(found.get("right", True) for found in figures)


def write(path: Path, result: dict[str, Any]) -> None:
    """Whole, or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def main(
    output: Annotated[Path | None, typer.Option(help="JSON file; its name has the card's otherwise")] = None,
    steps: Annotated[str, typer.Option(help=f"of {', '.join(LIMITS)}; the card is always read")] = ",".join(LIMITS),
    check: Annotated[bool, typer.Option(help="a small model on the CPU, through the same code")] = False,
    minutes: Annotated[float, typer.Option(help="after which nothing runs any more")] = MINUTES,
    scratch: Annotated[Path | None, typer.Option(help="folder for 13 GB of random weights")] = None,
    take: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Take the steps, and write down what they find."""
    if take:
        assert scratch is not None
        return take_step(take, scratch, scratch / f"{take}.jsonl", check)
    wanted = ["card", *(name for name in steps.split(",") if name != "card")]
    if unknown := [name for name in wanted if name not in LIMITS]:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(LIMITS)}", param_hint="--steps")
    end = time.monotonic() + 60 * minutes
    result: dict[str, Any] = {"card": None, "steps": {}}
    late: list[str] = []
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        for name in wanted:
            if name != "card" and not is_right(result["steps"]["card"]):
                sys.exit(f"there is no card that the model fits: {json.dumps(result['steps']['card'], indent=1)}")

            def note(known: dict[str, Any], name: str = name) -> None:
                nonlocal output
                result["steps"][name] = known
                if name == "card" and known["figures"]:
                    result["card"] = known["figures"]["card"]["name"]
                    output = output or HERE / "results" / f"first_light-{slug(result['card'])}.json"
                    result["steps"] = earlier(output, result["card"]) | {"card": known}
                if output:
                    write(output, result)

            left = end - time.monotonic()
            if left <= 0:
                print(f"{name}: not taken, for {minutes:g} minutes are over", flush=True)
                late.append(name)
                continue
            run_step(name, Path(place), check, min(left, LIMITS[name] * max(1, minutes / MINUTES)), note)
            print(f"{name}: {'right' if is_right(result['steps'][name]) else 'WRONG'}", flush=True)
    if wrong := [name for name in wanted if name in late or not is_right(result["steps"][name])]:
        sys.exit(f"not as it should be: {', '.join(wrong)}; see {output}")
    return None


def earlier(path: Path, card: str) -> dict[str, Any]:
    """Steps that were taken on this card before."""
    if not path.exists():
        return {}
    before = json.loads(path.read_text(encoding="utf-8"))
    return before["steps"] if before["card"] == card else {}


def slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")


if __name__ == "__main__":
    typer.run(main)
