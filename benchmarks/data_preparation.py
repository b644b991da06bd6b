"""How fast conversations become masked tokens: Amberline and FastChat's own code, in one run, on identical output.

    python benchmarks/data_preparation.py                # against FastChat, alternating
    python benchmarks/data_preparation.py --scaling      # Amberline alone, at growing numbers of conversations

FastChat 0.2.36 runs with transformers 4.57, which still has the slow tokenizer that the published recipe used, in an
environment of its own. The corpus is generated (corpus.py says how); the tokenizer is the 32k SentencePiece model of
the Llama kind that mistral-common carries. Results: benchmarks/results/data_preparation*.json.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import contest
import corpus
import mistral_common
import numpy as np
import psutil
import typer

from amberline.core.manifests import write_manifest
from amberline.data.streams import write_array
from amberline.data.tokens import open_tokens

MAX_LENGTH = 2048
SHAREGPT_SHARE_OF_MIX = 90 / 233  # in the published mix
SCALING_ROWS = [20_000, 60_000, 120_000, 233_000]


def main(
    rows: Annotated[int, typer.Option(help="conversations to compare on")] = 5000,
    rounds: Annotated[int, typer.Option(help="how often each is run, in turn")] = 3,
    processes: Annotated[int, typer.Option(help="processes Amberline may use; FastChat's split takes one a core")] = 2,
    environments: Annotated[Path, typer.Option(help="where FastChat's environment is, or is made")] = contest.ROOT,
    scaling: Annotated[bool, typer.Option(help="measure time and memory at growing sizes instead")] = False,
    size: Annotated[
        list[int], typer.Option(help="conversations of a point of --scaling; may be repeated")
    ] = SCALING_ROWS,
) -> None:
    """Measure data preparation."""
    with tempfile.TemporaryDirectory(prefix="amberline-benchmark-") as folder:
        work = Path(folder)
        make_tokenizer_folder(work / "model")
        if scaling:
            result = measure_scaling(work, size, processes)
        else:
            result = compare(work, rows, rounds, processes, contest.environment("fastchat", environments.resolve()))
    result["machine"] = contest.machine()
    contest.write_result(f"data_preparation{'_scaling' if scaling else ''}", result)
    print(json.dumps(result, indent=1))


def compare(work: Path, rows: int, rounds: int, processes: int, peer: Path) -> dict:
    """Run Amberline, FastChat with the slow and with the fast tokenizer, in turn; every output must be the same."""
    make_corpus(work, rows, sharegpt_share=1.0)
    save_fast_tokenizer(peer, work)
    seconds: dict[str, list[dict[str, float]]] = {"amberline": [], "fastchat_slow": [], "fastchat_fast": []}
    for number in range(rounds):
        seconds["amberline"].append(run_amberline(work, processes))
        for kind in ("slow", "fast"):
            seconds[f"fastchat_{kind}"].append(run_fastchat(peer, work, fast=kind == "fast"))
            differences = count_differences(work)
            if kind == "slow" and differences:
                sys.exit(f"the outputs are not the same: {differences}")
        print(f"round {number + 1} of {rounds}: {json.dumps({name: runs[-1] for name, runs in seconds.items()})}")
    totals = {name: statistics.median(run["split"] + run["masks"] for run in runs) for name, runs in seconds.items()}
    return {
        "rows": rows,
        "corpus": corpus.figures(work / "mix.json"),
        "processes": processes,
        "seconds": seconds,
        "median_seconds": totals,
        "times_fastchat_slow": totals["fastchat_slow"] / totals["amberline"],
        "times_fastchat_fast": totals["fastchat_fast"] / totals["amberline"],
        "differences_to_fastchat_slow": 0,
        "differences_to_fastchat_fast": differences,
    }


def measure_scaling(work: Path, sizes: list[int], processes: int) -> dict:
    """Time and peak memory of both programs at growing sizes."""
    points = []
    for rows in sizes:
        size = make_corpus(work, rows, SHAREGPT_SHARE_OF_MIX)
        point: dict[str, float] = {"rows": rows, "bytes": size}
        for name, command in commands(work, processes).items():
            point |= {f"{name}_{what}": value for what, value in watch(command).items()}
        points.append(point)
        print(json.dumps(point))
    per_row = [(point["split_cpu_seconds"] + point["masks_cpu_seconds"]) / point["rows"] for point in points]
    wall_per_row = [(point["split_seconds"] + point["masks_seconds"]) / point["rows"] for point in points]
    return {
        "corpus": corpus.figures(work / "mix.json"),
        "processes": processes,
        "points": points,
        "cpu_seconds_a_row_relative_to_the_smallest": [value / per_row[0] for value in per_row],
        "seconds_a_row_relative_to_the_smallest": [value / wall_per_row[0] for value in wall_per_row],
        "peak_bytes": max(max(point["split_peak_bytes"], point["masks_peak_bytes"]) for point in points),
    }


def make_tokenizer_folder(folder: Path) -> None:
    """A Hugging Face folder with the 32k model, in legacy mode."""
    folder.mkdir()
    model = Path(mistral_common.__file__).parent / "data/tokenizer.model.v1"
    (folder / "tokenizer.model").write_bytes(model.read_bytes())
    config = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"unk_token": "<unk>"}))
    write_manifest(folder, kind="model", files=list(folder.iterdir()), inputs={}, settings={}, facts={})


def make_corpus(work: Path, rows: int, sharegpt_share: float) -> int:
    """Write the corpus as the mix stage would; return its size in bytes."""
    path = work / "mix.json"
    with write_array(path) as written:
        for row in corpus.conversations(rows, sharegpt_share, work / "model/tokenizer.model", seed=rows):
            written.write(row)
    write_manifest(path, kind="conversations", files=[path], inputs={}, settings={}, facts={"rows": rows})
    return path.stat().st_size


def save_fast_tokenizer(peer: Path, work: Path) -> None:
    """The same tokenizer as transformers 4.57 converts it to its fast kind, which takes long and is not measured."""
    code = (
        "import sys, transformers; transformers.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"
    )
    subprocess.run([peer, "-c", code, work / "model", work / "fast"], check=True, capture_output=True)


def commands(work: Path, processes: int) -> dict[str, list[str]]:
    """The command lines of both programs."""
    chunk = {"mode": "fastchat", "template": "vicuna", "max_length": MAX_LENGTH, "keep_leading_answer": False}
    tokens = {"template": "vicuna", "loss_on": "answers", "mode": "fastchat", "max_length": MAX_LENGTH}
    common = [f"--model={work / 'model'}", f"--processes={processes}"]
    return {
        "split": [
            *(
                sys.executable,
                str(contest.ROOT / "scripts/chunk_conversations.py"),
                *common,
                f"--settings={json.dumps(chunk)}",
            ),
            *(f"--conversations={work / 'mix.json'}", f"--chunks={work / 'chunks.json'}"),
            *(f"--funnel={work / 'split.json'}", f"--rejects={work / 'split.jsonl'}"),
            f"--comparison={work / 'comparison.json'}",
        ],
        "masks": [
            *(sys.executable, str(contest.ROOT / "scripts/tokenize_conversations.py"), *common),
            *(f"--settings={json.dumps(tokens)}", f"--rows={work / 'chunks.json'}", f"--tokens={work / 'tokens'}"),
            *(f"--funnel={work / 'tokens.json'}", f"--rejects={work / 'tokens.jsonl'}"),
        ],
    }


def run_amberline(work: Path, processes: int) -> dict[str, float]:
    """Seconds of both programs, imports not counted."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); module = __import__(sys.argv[2]); import typer;"
        "del sys.argv[:2]; start = time.perf_counter(); app = typer.Typer(); app.command()(module.main);"
        "app(standalone_mode=False); print(time.perf_counter() - start)"
    )
    seconds = {}
    for name, (python, program, *options) in commands(work, processes).items():
        command = [python, "-c", code, Path(program).parent, Path(program).stem, *options]
        made = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds[name] = round(float(made.stdout.splitlines()[-1]), 3)
    return seconds


def run_fastchat(peer: Path, work: Path, *, fast: bool) -> dict[str, float]:
    """Seconds of FastChat's code, imports not counted."""
    command = [
        *(peer, contest.PEERS / "fastchat_data.py", "--conversations", work / "mix.json"),
        *("--model", work / ("fast" if fast else "model"), "--max-length", MAX_LENGTH),
        *("--chunks", work / "fastchat.json", "--masks", work / "fastchat.npz", *["--fast"] * fast),
    ]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    made = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, env=environment)
    said = json.loads(made.stdout.splitlines()[-1])
    expected = "LlamaTokenizerFast" if fast else "LlamaTokenizer"
    if said["tokenizer"] != expected:
        sys.exit(f"FastChat ran with {said['tokenizer']}, not {expected}")
    return {name: round(said[name], 3) for name in ("split", "masks")}


def count_differences(work: Path) -> int:
    """How many samples differ from FastChat's, in ids or labels; all, if the chunks themselves do."""
    ours = open_tokens(work / "tokens").with_format("numpy")
    with np.load(work / "fastchat.npz") as file:
        theirs = {name: file[name] for name in file.files}  # each access would read the whole array again
    names = [chunk["id"] for chunk in json.loads((work / "fastchat.json").read_text())]
    if names != ours["id"][:].tolist():
        return len(names)
    ends = np.cumsum(theirs["lengths"])
    different = 0
    for number, row in enumerate(ours):
        where = slice(ends[number] - theirs["lengths"][number], ends[number])
        same = all(np.array_equal(row[column], theirs[column][where]) for column in ("input_ids", "labels"))
        different += not same
    return different


def watch(command: list[str]) -> dict[str, float]:
    """Seconds, CPU seconds and the peak of memory of a command and all processes it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(0.1)
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{command[1]} failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_bytes": peak}


def memory(pid: int) -> int:
    """Bytes that a process and its descendants hold, shared pages divided among them."""
    held = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            held += process.memory_full_info().pss
    except psutil.Error:
        return held  # one ended meanwhile
    return held


if __name__ == "__main__":
    typer.run(main)
