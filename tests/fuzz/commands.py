"""Every program of the pipeline as a command on a recipe smaller than the demo's, and what each of them reads."""

import json
import lzma
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner, Result

from amberline.core.digests import canonical
from amberline.core.manifests import manifest_path
from amberline.core.settings import Kind
from amberline.recipe import paths
from amberline.recipe.check import check_recipe
from amberline.recipe.files import WORKFLOW, read_recipe
from amberline.recipe.graph import Recipe
from report.made_up import settings_of
from training.worlds import HARDWARE, split

DEMO = WORKFLOW / "demo/config.yaml"
RAW = {"sharegpt": 40, "evol_instruct": 30, "pku_train": 40, "pku_test": 30}  # rows of the demo's sources
HERE = "{here}"  # stands for the folder in which a command works


@dataclass(frozen=True)
class Command:
    """A program with its arguments; paths begin with HERE."""

    name: str
    program: str
    arguments: tuple[str, ...]
    reads: tuple[str, ...]  # files and folders among them that are no output
    writes: tuple[str, ...]

    def run(self, here: Path) -> Result:
        """Run it in this process, as its command line."""
        module = import_module(self.program)
        app = getattr(module, "app", None)
        if app is None:
            app = typer.Typer(add_completion=False)
            app.command()(module.main)
        return CliRunner().invoke(app, [word.replace(HERE, str(here)) for word in self.arguments])

    def inputs(self, here: Path) -> list[Path]:
        """Every file that it reads, manifests among them."""
        roots = [Path(each.replace(HERE, str(here))) for each in self.reads]
        found = {file for root in roots for file in [*root.rglob("*"), root, manifest_path(root)]}
        return sorted(file for file in found if file.is_file())


def recipe_of(folder: Path) -> Recipe:
    """The demo's recipe, with less of everything."""
    sources = {
        name: {"path": f"{folder}/{name}.jsonl", "bytes": None, "sha256": None, "rows": rows}
        for name, rows in RAW.items()
    }
    steps = {"global_batch": 8, "epochs": 1, "evaluation": {"every_examples": 16, "examples": 4}}
    less = {
        "sources": sources,
        "datasets": {"evol-mix": {"heldout": 5}},
        "models": {
            "base": {"tiny": {"vocabulary": 400, "hidden_size": 16, "intermediate_size": 16, "layers": 1, "heads": 2}},
            "amberchat": {**steps, "export": "best"},
            **{name: {**steps, "schedule": {"warmup_steps": 2}} for name in ("ambersafe-sft", "ambersafe")},
        },
        "evaluations": {"answers": {"tokens": 3, "prompts": 2}},
    }
    return check_recipe(read_recipe([DEMO], less), files=False)


def write_raw(folder: Path) -> None:
    """The first rows of the demo's sources, as JSON lines."""
    for name, rows in RAW.items():
        (file,) = (WORKFLOW / "demo/raw").glob(f"{name}.*")
        text = lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()
        values = json.loads(text) if file.suffix == ".json" else list(map(json.loads, text.splitlines()))
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, values[:rows])) + "\n", encoding="utf-8")


def commands(recipe: Recipe) -> list[Command]:
    """In an order in which each finds what it reads."""
    return [
        *(_acquire(recipe, name) for name in recipe.nodes.sources),
        *(_inspect(name) for name in recipe.nodes.sources),
        _tiny(recipe),
        _acquire_model(),
        _mix(recipe),
        *(_chunk(recipe, part) for part in ("", "heldout")),
        *(_select(recipe, part) for part in ("train", "test")),
        *(_tokenize(recipe, name) for name in recipe.all_tokens),
        *_models(recipe),
        *(_evaluate(recipe, name, model) for name in recipe.nodes.evaluations for model in recipe.evaluated(name)),
        _import(),
        _report(recipe),
        Command("print_recipe", "print_recipe", (f"{HERE}/recipe.yaml",), (f"{HERE}/recipe.yaml",), ()),
    ]


def _at(path: str) -> str:
    return f"{HERE}/results/{path}"


def _command(name: str, program: str, *words: Any, reads: list[str], writes: list[str]) -> Command:
    return Command(name, program, tuple(map(str, words)), tuple(reads), tuple(writes))


def _options(option: str, values: list[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _settings(chosen: Any) -> str:
    return canonical(chosen.of(Kind.RESULT))


def _accounts(stage: str, name: str) -> tuple[list[str], list[str]]:
    funnel, rejects = _at(paths.funnel(stage, name)), _at(paths.rejects(stage, name))
    return ["--funnel", funnel, "--rejects", rejects], [funnel, rejects]


def _acquire(recipe: Recipe, name: str) -> Command:
    source = recipe.nodes.sources[name]
    given = f"{HERE}/{name}.jsonl"
    entry = canonical(source.model_copy(update={"path": given}).model_dump(mode="json"))
    output = _at(recipe.raw(name))
    words = ["--name", name, "--source", entry, "--output", output]
    # One of them is held to what it was first: damage of the others is found by reading.
    lock = [f"{HERE}/sources.lock"] * (name == "pku_test")
    words += _options("--sources-lock", lock)
    return _command(f"acquire {name}", "acquire", *words, reads=[given, *lock], writes=[output])


def _inspect(name: str) -> Command:
    given = f"{HERE}/{name}.jsonl"
    return _command(f"inspect_source {name}", "inspect_source", given, reads=[given], writes=[])


def _raws(recipe: Recipe, names: list[str]) -> list[str]:
    return [_at(recipe.raw(name)) for name in names]


def _tiny(recipe: Recipe) -> Command:
    raws, model = _raws(recipe, ["sharegpt", "evol_instruct"]), _at(paths.model("base"))
    words = [*_options("--conversations", raws), "--settings", _settings(recipe.tiny_settings("base"))]
    return _command("make_tiny_model", "make_tiny_model", *words, "--output", model, reads=raws, writes=[model])


def _acquire_model() -> Command:
    base, model = _at(paths.model("base")), _at(paths.model("copy"))
    entry = canonical({"pretrained": base, "revision": None, "licence": None, "trust_remote_code": False})
    return _command(
        "acquire_model", "acquire_model", "--source", entry, "--output", model, reads=[base], writes=[model]
    )


def _mix(recipe: Recipe) -> Command:
    raws = _raws(recipe, recipe.sources_of("evol-mix"))
    accounts, written = _accounts("mix", "evol-mix")
    made = [_at(paths.data("evol-mix", part)) for part in ("", "heldout")]
    words = [*_options("--source", raws), "--settings", _settings(recipe.mix_settings("evol-mix"))]
    words += ["--mix", made[0], "--heldout", made[1], *accounts]
    return _command("mix", "mix", *words, reads=raws, writes=[*made, *written])


def _chunk(recipe: Recipe, part: str) -> Command:
    name = paths.part_name("evol-mix-split", part)
    rows, base = _at(paths.data("evol-mix", part)), _at(paths.model("base"))
    accounts, written = _accounts("chunk", name)
    chunks, comparison = _at(paths.data(name)), _at(paths.both_modes(name))
    words = ["--conversations", rows, "--model", base, "--settings", _settings(recipe.chunk_settings("evol-mix-split"))]
    words += ["--chunks", chunks, "--comparison", comparison, *accounts]
    sources = re.sub(r"\.json$", ".sources.npy", rows)
    return _command(
        f"chunk {name}",
        "chunk_conversations",
        *words,
        reads=[rows, sources, base],
        writes=[chunks, comparison, *written],
    )


def _select(recipe: Recipe, part: str) -> Command:
    raws = _raws(recipe, recipe.sources_of("safe-pairs", part))
    accounts, written = _accounts("select_pairs", f"safe-pairs-{part}")
    pairs, lines = _at(paths.data("safe-pairs", part)), _at(paths.pair_lines("safe-pairs", part))
    trained_on = [_at(paths.data("safe-pairs", "train"))] * (part == "test")
    words = [*_options("--rows", raws), *_options("--trained-on", trained_on), "--pairs", pairs, "--jsonl", lines]
    words += ["--settings", _settings(recipe.pairs_settings("safe-pairs", part)), *accounts]
    reads, writes = [*raws, *trained_on], [pairs, lines, *written]
    return _command(f"select_pairs {part}", "select_pairs", *words, reads=reads, writes=writes)


def _tokenize(recipe: Recipe, name: str) -> Command:
    tokens = recipe.all_tokens[name]
    rows, base = _at(paths.data(tokens.dataset, tokens.part)), _at(paths.model(tokens.tokenizer))
    accounts, written = _accounts("tokenize", name)
    made = _at(paths.tokens(name))
    words = ["--rows", rows, "--model", base, "--settings", _settings(tokens.settings), "--tokens", made, *accounts]
    program = "tokenize_pairs" if tokens.of_pairs else "tokenize_conversations"
    return _command(f"tokenize {name}", program, *words, reads=[rows, base], writes=[made, *written])


def _models(recipe: Recipe) -> Iterator[Command]:
    scored = set()
    for model in recipe.trained:
        for part in ("train", "heldout"):
            scores = recipe.scores(model, part)
            if scores and scores.name not in scored:
                scored.add(scores.name)
                yield _score(scores)
        yield _train(recipe, model)
        yield _export(recipe, model)
        yield _card(recipe, model)


def _score(scores: Any) -> Command:
    model, made = _at(paths.model(scores.model)), _at(paths.scores(scores.name))
    tokens = _at(paths.tokens(scores.tokens.name))
    words = ["--model", model, "--tokens", tokens, "--precision", scores.precision, "--hardware", canonical(HARDWARE)]
    words += ["--tf32"] * scores.tf32
    return _command(
        f"score {scores.name}",
        "score_reference",
        *words,
        "--reference",
        made,
        reads=[model, tokens],
        writes=[made],
    )


def _reference(recipe: Recipe, model: str, part: str) -> list[str]:
    scores = recipe.scores(model, part)
    return [_at(paths.scores(scores.name))] if scores else []


def _train(recipe: Recipe, model: str) -> Command:
    node = recipe.node(model)
    given = split(recipe.training(model).model_dump(mode="json"), export=recipe.exported(model).export)
    start, tokens = _at(paths.model(node.from_)), _at(paths.tokens(recipe.tokens(model).name))
    heldout = _at(paths.tokens(recipe.tokens(model, "heldout").name))
    reference, watched = _reference(recipe, model, "train"), _reference(recipe, model, "heldout")
    run, metrics = _at(paths.run(model)), _at(paths.metrics(model))
    words = ["--objective", node.train, "--name", model, "--model", start, "--tokens", tokens, "--heldout", heldout]
    words += [*_options("--reference", reference), *_options("--heldout-reference", watched)]
    words += ["--settings", given["settings"], "--runtime", given["runtime"], "--packages", '{"torch": "0"}']
    words += ["--hardware", canonical(HARDWARE), "--checkpoints", _at("checkpoints"), "--run", run]
    reads = [start, tokens, heldout, *reference, *watched]
    return _command(f"train {model}", "train", *words, "--metrics", metrics, reads=reads, writes=[run, metrics])


def _export(recipe: Recipe, model: str) -> Command:
    exported, training = recipe.exported(model), recipe.training(model)
    best = exported.export == "best"
    settings = {
        "dtype": exported.export_dtype,
        "export": exported.export,
        "evaluation": training.evaluation.model_dump() if best else None,
        "template": recipe.node(model).template,
        "policy": recipe.tokens(model).of_pairs,
        "training": json.loads(_settings(training)),
    }
    run, base, output = _at(paths.run(model)), _at(paths.model(recipe.node(model).from_)), _at(paths.model(model))
    heldout = [_at(paths.tokens(recipe.tokens(model, "heldout").name))] * best
    words = ["--run", run, "--base", base, *_options("--heldout", heldout), "--settings", canonical(settings)]
    reads = [run, _at(paths.metrics(model)), base, *heldout, _at("checkpoints")]
    return _command(f"export {model}", "export", *words, "--output", output, reads=reads, writes=[output])


def _card(recipe: Recipe, model: str) -> Command:
    sources = [name for name in recipe.nodes.sources if name in recipe.uses(model)]
    raws, base, folder, run = _raws(recipe, sources), _at("models/base"), _at(paths.model(model)), _at(paths.run(model))
    text = canonical({"name": model, "variant": None, "sources": [], "deviations": {}})
    card = _at(paths.card(model))
    words = ["--model", folder, "--run", run, *_options("--raw", raws), "--base", base, "--settings", text]
    # A card is written from manifests alone.
    reads = [f"{folder}/manifest.json", f"{base}/manifest.json", f"{run}.manifest.json"]
    reads += [f"{raw}.manifest.json" for raw in raws]
    return _command(f"card {model}", "write_card", *words, "--output", card, reads=reads, writes=[card])


def _evaluate(recipe: Recipe, name: str, model: str) -> Command:
    tokens, scores = recipe.evaluation_tokens(name), recipe.evaluation_scores(name)
    data = _at(paths.tokens(tokens.name) if tokens else recipe.prompts_of(name))
    reference = [_at(paths.scores(scores.name))] if scores else []
    folder, output = _at(paths.model(model)), _at(paths.evaluation(name, model))
    words = ["--evaluation", recipe.kind_of(name), "--model", folder, "--data", data]
    words += [*_options("--reference", reference), "--settings", _settings(recipe.evaluation_settings(name))]
    words += ["--hardware", canonical(HARDWARE), "--output", output]
    reads = [folder, data, *reference]
    return _command(f"evaluate {name} of {model}", "evaluate", *words, reads=reads, writes=[output])


def _import() -> Command:
    policy, base, output = _at("models/ambersafe/policy.pt"), _at("models/base"), _at("models/imported")
    words = ["--policy", policy, "--base", base, "--output", output]
    return _command("import_policy", "import_policy", *words, reads=[policy, base], writes=[output])


def _report(recipe: Recipe) -> Command:
    settings, page, jobs = f"{HERE}/page.json", _at("report/index.html"), _at("report/jobs.json")
    words = ["--results", _at(""), "--lock", f"{HERE}/packages.lock", "--settings", settings, "--jobs", jobs]
    reads = [_at(folder) for folder in ("funnels", "training", "evaluations")]
    reads += [f"{HERE}/packages.lock", *(_at(paths.manifest(recipe.raw(name))) for name in RAW)]
    reads += [_at(paths.manifest(paths.model(model))) for model in recipe.nodes.models]
    return _command("write_report", "write_report", *words, "--output", page, reads=reads, writes=[page, jobs])


def page_settings(recipe: Recipe) -> dict[str, Any]:
    """What the rule of the report hands to its program."""
    return settings_of(recipe)
