"""The demo's trainings on one GPU, by the product's own programs: AmberChat in bfloat16; SFT, reference scores and DPO
in float32. Two of them are killed, and continued. Rows are made up; settings are the demo's, with fewer steps.

The chat is as it would be; DPO is `deterministic`: the curve of the continued run must be that of the whole one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gpu_steps
import numpy as np
from gpu_steps import Bench
from token_folders import split, write_conversations, write_manifest_of_model, write_pairs
from transformers import LlamaConfig

from amberline.recipe.check import check_recipe
from amberline.recipe.files import read_recipe

ROOT = Path(__file__).resolve().parents[1]
DEMO = check_recipe(read_recipe([ROOT / "demo/config.yaml"]), files=False)
TRAINED = gpu_steps.trainings(DEMO)
# Steps of a run that is killed, and between checkpoints: it is killed at the first one, long before its end.
STEPS, EVERY_STEPS = {"cuda": 160, "cpu": 32}, 8
AUTO = {"micro_batch_tokens": "auto", "activation_checkpointing": "auto", "reshard_after_forward": "auto"}
NEARLY = 1e-2  # of a loss, between a whole and a continued run on a GPU that may add in another order


class Demo:
    """Model and rows in a folder, and programs run on them."""

    def __init__(self, bench: Bench, folder: Path, model: LlamaConfig, longest: int = 200) -> None:
        self.bench, self.folder = bench, folder
        random = np.random.default_rng(0)
        gpu_steps.write_model(folder / "model", model)
        write_manifest_of_model(folder / "model")
        ids = lambda length: random.integers(0, 512, length).tolist()  # noqa: E731
        chats = [ids(random.integers(20, longest)) for _ in range(64)]
        write_conversations([{"input_ids": each, "labels": each} for each in chats], folder / "tokens/chat")
        prompts = [{"prompt": ids(18), "chosen": ids(30), "rejected": ids(35)} for _ in range(64)]
        write_pairs(prompts, folder / "tokens/pairs")
        write_conversations(
            [{"input_ids": [*p["prompt"], *p["chosen"]], "labels": [*[-100] * 18, *p["chosen"]]} for p in prompts],
            folder / "tokens/preferred",
        )

    def hardware(self, **layout: Any) -> str:
        machine = DEMO.hardware("train").model_dump(mode="json")
        here = {"device": self.bench.device.type, "ranks_per_node": 1, "micro_batch_tokens": 1024}
        return json.dumps(machine | here | layout)

    def arguments(
        self, tokens: str, run: str, precision: str, steps: int, *, batch: int = 8, **layout: Any
    ) -> list[str]:
        """Those of train.py for a run of this name."""
        model = TRAINED[tokens]
        node = DEMO.node(model)
        settings = DEMO.training(model).model_dump(mode="json") | {
            "precision": precision,
            "global_batch": batch,
            "epochs": steps * batch // 64,
            "checkpoints": {"every_steps": EVERY_STEPS, "keep": 2},
            "evaluation": {"every_examples": 0, "examples": 0},
        }
        folder = self.folder / run
        folder.mkdir(exist_ok=True)
        reference = {"reference": self.folder / "reference"} if node.train == "dpo" else {}
        options = {
            "objective": node.train,
            "name": run,
            "model": self.folder / "model",
            "tokens": self.folder / "tokens" / tokens,
            **reference,
            **split(settings),
            "hardware": self.hardware(**layout),
            "packages": "{}",
            "checkpoints": folder / "checkpoints",
            "run": folder / "run.json",
            "metrics": folder / "metrics.jsonl",
        }
        return ["train.py", *(text for name, value in options.items() for text in (f"--{name}", str(value)))]

    def start(self, run: str, arguments: list[str]) -> subprocess.Popen:
        log = (self.folder / f"{run}.log").open("ab")
        program, *options = arguments
        command = [sys.executable, str(ROOT / "scripts" / program), *options]
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def run(self, run: str, arguments: list[str]) -> dict[str, Any]:
        """Whether a program ends well; else the end of its log."""
        began = time.monotonic()
        code = self.start(run, arguments).wait()
        log = (self.folder / f"{run}.log").read_text(encoding="utf-8", errors="replace")
        told = {} if code == 0 else {"log": log[-1500:]}
        return {"exit": code, "seconds": time.monotonic() - began, "right": code == 0, **told}

    def kill(self, run: str, arguments: list[str]) -> str | None:
        """Start a training and kill it at its first checkpoint. Returns that checkpoint's name."""
        started = self.start(run, arguments)
        while started.poll() is None:
            if found := sorted((self.folder / run).glob("checkpoints/*/step-*/checkpoint.json")):
                started.send_signal(signal.SIGKILL)
                started.wait()
                return found[0].parent.name
            time.sleep(0.002)
        return None

    def losses(self, run: str) -> list[float]:
        lines = (self.folder / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]

    def compared(self, whole: str, continued: str, *, exactly: bool) -> dict[str, Any]:
        """The curves of a whole run and of one that was killed."""
        one, other = self.losses(whole), self.losses(continued)
        same = (self.folder / whole / "metrics.jsonl").read_bytes() == (
            self.folder / continued / "metrics.jsonl"
        ).read_bytes()
        apart = max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))
        return {
            "steps": len(one),
            "same_bytes": same,
            "loss_apart": apart,
            "right": same if exactly else apart < NEARLY,
        }

    def killed_and_continued(self, arguments: list[str], run: str) -> dict[str, Any]:
        killed = self.kill(run, arguments)
        return self.run(run, arguments) | {"killed_after": killed} | ({} if killed else {"right": False})


def trained(bench: Bench, folder: Path, record) -> None:
    """Record how each of the programs ended, and how the curves compare. What can run at once, does."""
    demo = Demo(bench, folder, gpu_steps.llama(gpu_steps.SMALL | {"hidden_size": 128, "intermediate_size": 352}))
    steps, precision = STEPS[bench.device.type], "bfloat16" if bench.cuda else "float32"

    def chat(run: str) -> list[str]:
        return demo.arguments("chat", run, precision, steps)

    def dpo(run: str) -> list[str]:
        return demo.arguments("pairs", run, "float32", steps, deterministic=True)

    def preferences() -> dict[str, Any]:
        options = {"model": "model", "tokens": "tokens/pairs", "reference": "reference"}
        places = [text for name, place in options.items() for text in (f"--{name}", str(folder / place))]
        machine = ["--precision", "float32", "--tf32", "--hardware", demo.hardware(deterministic=True)]
        return demo.run("scores", ["score_reference.py", *places, *machine])

    with ThreadPoolExecutor() as pool:
        whole = pool.submit(demo.run, "chat", chat("chat"))
        again = pool.submit(demo.killed_and_continued, chat("chat-again"), "chat-again")
        sft = pool.submit(demo.run, "sft", demo.arguments("preferred", "sft", "float32", 16))
        record("reference scores, float32", preferences())
        dpo_whole = pool.submit(demo.run, "dpo", dpo("dpo"))
        dpo_again = pool.submit(demo.killed_and_continued, dpo("dpo-again"), "dpo-again")
        for name, ended in (
            (f"chat, {precision}", whole),
            ("chat, killed and continued", again),
            ("SFT, float32", sft),
            ("DPO, float32, deterministic", dpo_whole),
            ("DPO, killed and continued", dpo_again),
        ):
            record(name, ended.result())
    record("chat: whole and continued", demo.compared("chat", "chat-again", exactly=not bench.cuda))
    record("DPO: whole and continued", demo.compared("dpo", "dpo-again", exactly=True))


def chosen(bench: Bench, folder: Path, record) -> None:
    """AmberChat's program on two layers of its width, all of the layout being `auto`: what it chose, how it went."""
    demo = Demo(bench, folder, gpu_steps.llama(bench.shape, 2), longest=200 if bench.check else 2048)
    layout = AUTO | {"compile": bench.cuda}
    ended = demo.run("auto", demo.arguments("chat", "auto", "bfloat16", 12, batch=32, **layout))
    log = (folder / "auto.log").read_text(encoding="utf-8", errors="replace").replace(f"{folder}/", "")
    timings = [
        path.read_text(encoding="utf-8").splitlines() for path in folder.glob("auto/checkpoints/*/timings.jsonl")
    ]
    record("chat", {"log": log[-4000:], "timings": [json.loads(line) for lines in timings for line in lines], **ended})
