"""Write benchmarks/RESULTS.md, and its plots, from the JSON that the benchmarks left in benchmarks/results/."""

import json
import statistics
from pathlib import Path
from typing import Any

import plots
from first_light import is_right

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(found: dict[str, Any]) -> str:
    where = found["machine"]
    return f"{where.get('processor', where.get('device'))}, {where.get('cores', where.get('processes'))} cores"


def settings(found: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in found["settings"].items())


def picture(path: Path, what: str) -> str:
    return f"![{what}]({path.relative_to(HERE)})"


def preparation(found: dict[str, Any]) -> str:
    names = {"amberline": "Amberline", "fastchat_slow": "FastChat, slow tokenizer", "fastchat_fast": "FastChat, fast"}
    rows = []
    for name, title in names.items():
        split, masks = (statistics.median(run[part] for run in found["seconds"][name]) for part in ("split", "masks"))
        ratio = found["median_seconds"][name] / found["median_seconds"]["amberline"]
        different = found.get(f"differences_to_{name}", 0)
        rows.append([title, f"{split:.1f}", f"{masks:.1f}", f"{ratio:.1f}", str(different)])
    columns = ["", "split, s", "masks, s", "times Amberline's", "samples that differ"]
    return (
        f"{machine(found)}; {found['rows']:,} conversations, {found['processes']} processes, "
        f"{len(found['seconds']['amberline'])} rounds in turn; medians. FastChat's slow tokenizer is the published "
        f"setting.\n\n{table(columns, rows)}\n\n{corpus(found['corpus'])}"
    )


def scaling(found: dict[str, Any]) -> str:
    rows = [
        [
            f"{point['rows']:,}",
            f"{point['bytes'] / 1e6:,.0f}",
            f"{point['split_seconds']:.0f}",
            f"{point['masks_seconds']:.0f}",
            f"{relative:.2f}",
            f"{point['split_peak_bytes'] / 1e6:,.0f}",
            f"{point['masks_peak_bytes'] / 1e6:,.0f}",
        ]
        for point, relative in zip(found["points"], found["seconds_a_row_relative_to_the_smallest"], strict=True)
    ]
    times = ["split, s", "masks, s", "s a row, relative"]
    columns = ["conversations", "MB", *times, "split, peak MB", "masks, peak MB"]
    return (
        f"`--scaling`; {found['processes']} processes, starting included; peaks are those of all processes together, "
        f"pages of the mapped file among them.\n\n{table(columns, rows)}\n\n{corpus(found['corpus'])}"
    )


def corpus(figures: dict[str, float]) -> str:
    return (
        f"Generated conversations: {figures['bytes_per_conversation']:,.0f} bytes on average (a twentieth below "
        f"{figures['bytes_p5']:,.0f}, half below {figures['bytes_p50']:,.0f}, a twentieth above "
        f"{figures['bytes_p95']:,.0f}), {figures['turns_per_conversation']:.1f} turns."
    )


def throughput(found: dict[str, Any], name: str, unit: str) -> str:
    rows = [
        [
            name,
            f"{each['per_second']:.4g}",
            f"{each['per_cpu_second']:.4g}",
            f"{each['peak_bytes'] / 1e9:.2f}",
            f"{each['loss']:.5f}",
            f"{each['ours_faster_by']:.2f}",
            f"{each['ours_faster_by_cpu_time']:.2f}",
            f"{each['our_memory']:.2f}",
        ]
        for name, each in found["summary"].items()
    ]
    columns = [f"{unit}/s", f"{unit}/s of processor", "peak GB", "mean loss"]
    ratios = ["ours faster by", "by processor time", "our memory"]
    shown = picture(plots.throughput(name, found["summary"], unit), "speed and memory of each contestant")
    lengths = "; ".join(f"{part}: {spread(each)}" for part, each in found["lengths"].items())
    versions = "; ".join(f"{who}: {', '.join(map(' '.join, each.items()))}" for who, each in found["versions"].items())
    return (
        f"{machine(found)}; {settings(found)}. Medians; ratios are medians of each round's. "
        f"Mean losses agree within 1e-4: {'yes' if found['losses_agree'] else 'NO'}.\n\n"
        f"{table(['', *columns, *ratios], rows)}\n\n{shown}\n\n"
        f"Lengths: {lengths}.\n\nVersions: {versions}."
    )


def spread(lengths: dict[str, float]) -> str:
    return (
        f"mean {lengths['mean']:.0f}, standard deviation {lengths['sd']:.0f}, median {lengths['p50']:.0f}, "
        f"a tenth above {lengths['p90']:.0f}, largest {lengths['max']}"
    )


def predictions(found: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{each['predicted_bytes'] / 1e9:.2f}",
            f"{each['peak_bytes'] / 1e9:.2f}",
            f"{each['predicted_of_peak']:.2f}",
            f"{each['predicted_step_seconds']:.1f}",
            f"{each['step_seconds']:.1f}",
            f"{each['predicted_of_step']:.2f}",
        ]
        for name, each in found["summary"].items()
    ]
    shown = picture(plots.predictions("predictions", found["summary"]), "predicted and measured peaks and step times")
    columns = ["", "predicted GB", "measured GB", "ratio", "predicted s a step", "measured s a step", "ratio"]
    return (
        f"{machine(found)}; {settings(found)}. Peaks are the largest of the runs, times their medians; each run "
        f"measures at its start what the machine reaches.\n\n{table(columns, rows)}\n\n{shown}"
    )


def growth(found: dict[str, Any]) -> str:
    measures = ("tokens", "parameters", "processes", "largest_factor_off")
    rows = [
        [cost.replace("_", " "), *(f"{each[measure]:.2f}" for measure in measures)]
        for cost, each in found["exponents"].items()
    ]
    shown = picture(
        plots.growth("cost_growth", found["points"], found["exponents"]["cpu_seconds"]), "processor seconds of a step"
    )
    rates = [each["flops_per_cpu_second"] / 1e9 for each in found["points"]]
    return (
        f"{machine(found)}; torch {found['torch']}; {settings(found)}; one thread a process. "
        "Exponents of a step's cost in its tokens, the model's parameters in matrix products, "
        "and the processes that share it.\n\n"
        + table(["cost", "tokens", "parameters", "processes", "largest factor off the fit"], rows)
        + f"\n\nCounted operations (estimates.training_flops) a processor second: {min(rates):.0f} to {max(rates):.0f} "
        f"GFLOP/s over all points.\n\n{shown}"
    )


def loading(found: dict[str, Any]) -> str:
    rows = [
        [str(rank), *(f"{each[key] / 1e6:,.0f}" for key in ("base", "peak", "held"))]
        for rank, each in enumerate(found["by_rank"])
    ]
    return (
        f"{found['parameters']:,} parameters, {found['ranks']} processes; a full float32 copy is "
        f"{found['full_copy_bytes'] / 1e6:,.0f} MB. The largest peak above the process's base is "
        f"{found['peak_above_base_of_full_copy']:.2f} of it.\n\n"
        + table(["process", "base MB", "peak MB", "parameters held MB"], rows)
    )


def head(found: dict[str, Any]) -> str:
    rows = [
        [name, f"{each['cpu_seconds']:.2f}", f"{each['loss_apart']:.1e}", f"{each['gradient_apart']:.1e}"]
        for name, each in found["summary"].items()
    ]
    return (
        f"{machine(found)}; torch {found['torch']}, float32; {settings(found)}. "
        "Forward and backward pass.\n\n"
        + table(["", "processor seconds", "loss apart", "gradient apart, relative"], rows)
    )


def gpu(found: dict[str, Any]) -> str:
    ceilings, agreement = found["ceilings"], found.get("agreement", {"failed": "not measured"})
    apart = agreement.get("failed") or f"at most {agreement['loss_apart']:.1e} in {agreement['steps']} steps"
    return (
        f"{found['machine']['device']}, {found['machine']['processes']} processes, torch {found['versions']['torch']}; "
        f"{found['layers']} layers; ceilings: {rates(ceilings)}. {STRICT_MFU}\n\n"
        + steps_of_gpu([*found["chat"], *found["pairs"]])
        + f"\n\nLosses of the fastest layout against those with plain settings, relative: {apart}."
    )


STRICT_MFU = "Strict MFU: (6 · parameters in matrix products, input embeddings excluded, + causal attention) / peak."


def rates(found: dict[str, float]) -> str:
    return f"{found['matmul_flops'] / 1e12:.0f} TFLOP/s, {found['copy_bytes'] / 1e9:,.0f} GB/s"


def steps_of_gpu(measured: list[dict[str, Any]]) -> str:
    """A line for each layout: conversations, and pairs."""
    rows = []
    for each in measured:
        layout = [f"{each['tokens']:,}", each["precision"], each["checkpointing"], "yes" if each["compile"] else "no"]
        if "failed" in each:
            rows.append([*layout, each["failed"], *[""] * 6])
            continue
        memory = (f"{each[part] / 2**30:.1f}" for part in ("peak_bytes", "reserved_bytes", "predicted_bytes"))
        pairs = f"{each['pairs_per_second']:.1f}" if "pairs_per_second" in each else ""
        mfu = f"{each['strict_mfu']:.1%}" if each["strict_mfu"] else "–"
        speed = (f"{each['tokens_per_second_per_gpu']:,.0f}", pairs, mfu, f"{each['efficiency']:.2f}")
        rows.append([*layout, *speed, *memory])
    columns = ["tokens", "precision", "checkpointing", "compiled", "tokens/s/GPU", "pairs/s", "MFU"]
    return table([*columns, "predicted time / measured", "peak GiB", "reserved GiB", "predicted GiB"], rows)


def first_light(found: dict[str, Any]) -> str:
    """One card: what it is, which steps went well, and their figures."""
    steps = {name: step["figures"] for name, step in found["steps"].items()}
    card = steps["card"]["card"]
    ended = ", ".join(
        f"{name} {'right' if is_right(step) else 'WRONG'} ({step['ended']})" for name, step in found["steps"].items()
    )
    parts = [
        f"{found['card']}, {card['memory_bytes'] / 2**30:.0f} GiB for tensors, torch {card['torch']}, {card['layers']} "
        f"layers; {rates(card)}. {STRICT_MFU} Steps: {ended}.",
        steps_of_gpu([each for name in ("sft", "pairs") for each in steps.get(name, {}).values()]),
        *(render(steps[name]) for name, render in ON_A_CARD.items() if name in steps),
    ]
    return "\n\n".join(parts)


def kernels_on_a_card(figures: dict[str, Any]) -> str:
    rows = [
        [name, f"{each['forward']:.1e}", f"{each['backward']:.1e}", f"{each['milliseconds']:.2f}"]
        for name, each in figures.items()
        if "forward" in each
    ]
    columns = ["kernel, documents", "result apart", "gradients", "ms"]
    updates = [
        f"{name}: {each['milliseconds']:.1f} ms, in torch's foreach form {each['foreach']:.1f}, weights "
        f"{each['apart']:.1e} apart"
        for name, each in figures.items()
        if "foreach" in each
    ]
    return "\n\n".join(["Attention against float64:", table(columns, rows), *updates])


def killed_on_a_card(figures: dict[str, Any]) -> str:
    told = [
        f"{name.partition(':')[0]}: {each['steps']} steps, {'the same bytes' if each['same_bytes'] else 'not the same'}"
        for name, each in figures.items()
        if "same_bytes" in each
    ]
    return f"Curves of a run that was killed and continued, against a whole one's: {'; '.join(told)}."


def waits_on_a_card(figures: dict[str, Any]) -> str:
    """Of the waits, the benchmark's own is one in two steps."""
    told = [
        f"{name}: {each['idle_share']:.1%} of a step without a kernel, {each['waits_a_step']:g} waits of the host"
        for name, each in figures.items()
    ]
    return f"Profiled over two steps, {'; '.join(told)}."


def agreement_on_a_card(figures: dict[str, Any]) -> str:
    found = figures["losses"]
    if "failed" in found:
        return f"Agreement with plain settings: {found['failed']}."
    faster = found["plain"]["step_seconds"] / found["fastest"]["step_seconds"]
    return (
        "Losses of the fastest layout against plain settings (full checkpointing, sdpa, not compiled) "
        f"are at most {found['loss_apart']:.1e} apart, relative, in {found['steps']} steps; {faster:.2f} times as fast."
    )


def price_on_a_card(figures: dict[str, Any]) -> str:
    found = figures["chat"]
    price = f"{found['times_as_long']:.2f} times as long" if "times_as_long" in found else "not measured"
    return f"`deterministic`: {price}; losses of two runs {'the same' if found['same_losses'] else 'DIFFER'}."


def auto_on_a_card(figures: dict[str, Any]) -> str:
    found = figures["chat"]
    seconds = statistics.median(each["seconds"] for each in found["timings"][1:])
    last = found["timings"][-1]
    mfu = f", {last['mfu']:.1%} MFU" if "mfu" in last else ""
    chosen = [line for line in found["log"].splitlines() if line.startswith(("memory:", "time:"))]
    return (
        f"`train.py` with two layers, all of the layout `auto`: {seconds:.3f} s a step, "
        f"{last['tokens_per_second']:,.0f} tokens/s{mfu}, {last['memory_gb']:.2f} GB. Before the first step it says: "
        f"“{'; '.join(chosen)}”."
    )


ON_A_CARD = {
    "kernels": kernels_on_a_card,
    "demo": killed_on_a_card,
    "profile": waits_on_a_card,
    "agreement": agreement_on_a_card,
    "deterministic": price_on_a_card,
    "auto": auto_on_a_card,
}


def overhead(found: dict[str, Any]) -> str:
    rows = [[name, f"{each['median']:.1f}"] for name, each in found["seconds"].items()]
    return f"{machine(found)}; {settings(found)}.\n\n" + table(["", "seconds, median"], rows)


def step_on_a_cpu(found: dict[str, Any]) -> str:
    stages = found["stages"]
    rows = [[kind, *(f"{each['shares'][kind]:.1%}" for each in stages.values())] for kind in stages["sft"]["shares"]]
    rows.append(["the same products by themselves", *(f"{each['products_alone']:.1%}" for each in stages.values())])
    sizes = "; ".join(
        f"{name}: {each['tokens']:,} tokens, {each['targets']:,} targets, {each['micro_batches']} micro-batches"
        for name, each in stages.items()
    )
    return (
        f"{machine(found)}; torch {found['versions']['torch']}; {settings(found)}; 19.5M parameters. {sizes}. Parts of "
        f"a step's processor time.\n\n{table(['', *stages], rows)}"
    )


CHAPTERS = (
    ("Supervised finetuning", "sft_throughput", lambda found: throughput(found, "sft_throughput", "loss tokens")),
    (
        "Preference optimisation",
        "preference_throughput",
        lambda found: throughput(found, "preference_throughput", "pairs"),
    ),
    ("Data preparation", "data_preparation", preparation),
    ("Data preparation at growing sizes", "data_preparation_scaling", scaling),
    ("Memory and time: predicted and measured", "predictions", predictions),
    ("How cost grows", "cost_growth", growth),
    ("What a CPU's step is made of", "training_profile", step_on_a_cpu),
    ("Output matrix and loss", "output_head", head),
    ("Memory while loading", "load_memory", loading),
    ("6.7B Llama on GPUs", "gpu_training", gpu),
    ("What the pipeline itself takes", "pipeline_overhead", overhead),
)


def first_lights() -> list[tuple[str, str, Any]]:
    """A chapter for each card that was tried; one that says how, where none was."""
    found = sorted(path.stem for path in RESULTS.glob("first_light-*.json")) or ["first_light"]
    return [(f"First light on a GPU{told_card(name)}", name, first_light) for name in found]


def told_card(name: str) -> str:
    """What the name of a file says after the program's."""
    _, _, card = name.partition("-")
    return f": {card.replace('-', ' ')}" if card else ""


def main() -> None:
    """Write the page."""
    parts = [
        "# Benchmark results",
        "Written by `write_results.py` from `results/*.json`; each program says how it measures.",
    ]
    for title, name, render in (*CHAPTERS[:-2], *first_lights(), *CHAPTERS[-2:]):
        path = RESULTS / f"{name}.json"
        parts.append(f"## {title}")
        if path.is_file():
            program = name.removesuffix("_scaling").partition("-")[0]
            parts.append(f"`{program}.py`. {render(json.loads(path.read_text(encoding='utf-8')))}")
        else:
            parts.append(f"Not measured yet: run `python benchmarks/{name}.py`.")
    (HERE / "RESULTS.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
