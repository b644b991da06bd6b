"""What nodes say of each other: every edge leads to a node of the right kind, and there is no circle."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from amberline.evaluations.registry import load_evaluation
from amberline.formats.base import PreferenceFormat
from amberline.formats.registry import format_names, load_format
from amberline.objectives.registry import load_objective
from amberline.recipe import nodes as kinds
from amberline.recipe import paths
from amberline.recipe.data import PairTokens
from amberline.recipe.faults import unknown
from amberline.recipe.graph import Recipe, Work
from amberline.recipe.resolve import Nodes
from amberline.templates.registry import chat_templates, template_names

FASTCHAT = ("vicuna", "answers")  # template and loss_on of its masks
_NOT_FASTCHAT = "FastChat's masks are for template: vicuna and loss_on: answers, not"


def find_faults(nodes: Nodes) -> list[str]:
    """All faults of a recipe whose nodes are right by themselves."""
    found = [
        *_sources(nodes),
        *(fault for name, node in nodes.datasets.items() for fault in _dataset(nodes, f"datasets.{name}", node)),
        *(fault for name, node in nodes.models.items() for fault in _model(nodes, f"models.{name}", node)),
        *_circles(nodes.models),
        *_templates(nodes),
        *(
            fault
            for name, node in nodes.evaluations.items()
            for fault in _evaluation(nodes, f"evaluations.{name}", node)
        ),
    ]
    if found:
        return found
    # What follows goes along edges.
    recipe = Recipe(nodes)
    found = [
        *_tokenizers(recipe),
        *_own_templates(recipe),
        *_masks_of_fastchat(recipe),
        *(fault for name in nodes.evaluations for fault in _measured_as_trained(recipe, name)),
    ]
    if found:
        return found
    # What follows asks for token folders.
    return [
        *_evaluated(recipe),
        *_trainings(recipe),
        *find_collisions(recipe),
        *_hardware(recipe),
        *_attention(recipe),
    ]


def _sources(nodes: Nodes) -> Iterator[str]:
    for name, source in nodes.sources.items():
        if source.format not in format_names():
            yield unknown(f"sources.{name}.format", source.format, format_names(), "format")


def _holding(nodes: Nodes, where: str, names: Iterable[str], holds: str) -> Iterator[str]:
    """Faults of edges to sources."""
    for name in names:
        source = nodes.sources.get(name)
        if source is None:
            yield unknown(where, name, nodes.sources, "source")
        elif source.format in format_names() and load_format(source.format).holds != holds:
            yield f"{where}: {name} is of the format {source.format}, which holds no {holds}"


def _selecting(nodes: Nodes, where: str, select: str, names: Iterable[str]) -> Iterator[str]:
    """Faults of a choice of pairs that the formats of the sources do not allow."""
    for name in names:
        source = nodes.sources.get(name)
        if source is None or source.format not in format_names():
            continue
        format_ = load_format(source.format)
        if isinstance(format_, PreferenceFormat) and select not in format_.selections:
            allowed = " or ".join(sorted(format_.selections))
            yield f"{where}: found {select!r}, which rows of {name} ({source.format}) do not tell; set it to {allowed}"


def _dataset(nodes: Nodes, where: str, node: Any) -> Iterator[str]:
    if isinstance(node, kinds.Mix):
        yield from _holding(nodes, f"{where}.mix", node.mix, "conversations")
        if len(set(node.mix)) < len(node.mix):
            yield f"{where}.mix: a source stands in it twice; name each once"
        for key in kinds.SHARES:
            for name in getattr(node, key).keys() - set(node.mix):
                yield unknown(f"{where}.{key}", name, node.mix, "source in this mix")
        for name in sorted(node.take.keys() & node.fraction.keys()):
            yield f"{where}.fraction: {name} has a take, too; remove one of them"
    elif isinstance(node, kinds.Pairs):
        for part in ("train", "test"):
            sources = node.pairs.sources(part)
            yield from _holding(nodes, f"{where}.pairs.{part}", sources, "preferences")
            yield from _selecting(nodes, f"{where}.select", node.select, sources)
            if len(set(sources)) < len(sources):
                yield f"{where}.pairs.{part}: a source stands in it twice; name each once"
        if both := set(node.pairs.sources("train")) & set(node.pairs.sources("test")):
            yield f"{where}.pairs: {', '.join(sorted(both))} would be trained on and measured on; choose another source"
    else:
        mixes = [name for name, each in nodes.datasets.items() if isinstance(each, kinds.Mix)]
        if node.chunk not in mixes:
            yield unknown(f"{where}.chunk", node.chunk, mixes, "dataset of conversations")
        if node.tokenizer not in nodes.models:
            yield unknown(f"{where}.tokenizer", node.tokenizer, nodes.models, "model")


def _model(nodes: Nodes, where: str, node: Any) -> Iterator[str]:
    if isinstance(node, kinds.TinyStandIn):
        yield from _holding(nodes, f"{where}.texts", node.texts, "conversations")
    if not isinstance(node, kinds.TrainedModel):
        return
    if node.from_ not in nodes.models:
        yield unknown(f"{where}.from", node.from_, nodes.models, "model")
    learns_pairs = load_objective(node.train).rows_are == "pairs"
    fitting = (kinds.Pairs,) if learns_pairs else (kinds.Chunk, kinds.Pairs)
    allowed = [name for name, each in nodes.datasets.items() if isinstance(each, fitting)]
    if node.on not in nodes.datasets:
        yield unknown(f"{where}.on", node.on, allowed, "dataset")
    elif node.on not in allowed and learns_pairs:
        yield f"{where}.on: {node.train} learns from pairs, and {node.on} holds conversations; {_choose(allowed)}"
    elif node.on not in allowed:
        chunks = kinds.chunks_of(nodes.datasets, node.on)
        yield f"{where}.on: the conversations of {node.on} are not cut into chunks yet; {_choose(chunks or allowed)}"


def _templates(nodes: Nodes) -> Iterator[str]:
    """Templates are known, have a place for what is rendered, and are those that their chunks were counted with."""
    for section in ("datasets", "models", "evaluations"):
        for name, node in getattr(nodes, section).items():
            template, where = getattr(node, "template", None), f"{section}.{name}.template"
            of_pairs = isinstance(node, PairTokens)
            allowed = template_names() if of_pairs else chat_templates()
            if template == "none" and not of_pairs:
                yield f"{where}: without a template there is no place for turns; choose from {', '.join(allowed)}"
            elif template is not None and template not in allowed:
                yield unknown(where, template, allowed, "template")
    for name, node in nodes.models.items():
        chunks = nodes.datasets.get(getattr(node, "on", ""))
        if isinstance(chunks, kinds.Chunk) and isinstance(node, kinds.OfConversations):
            yield from _template_of_chunks(f"models.{name}", node, chunks)


def _own_templates(recipe: Recipe) -> Iterator[str]:
    """A tokenizer's own template is that of the model at the start of a line: a model before must not change it."""
    for name in recipe.trained:
        node = recipe.node(name)
        before = recipe.nodes.models[node.from_]
        if (
            node.template == "tokenizer"
            and isinstance(before, kinds.TrainedModel)
            and before.template not in {"tokenizer", "none"}  # type: ignore[attr-defined]  # put together
        ):
            yield (
                f"models.{name}.template: tokenizer is the chat template of {recipe.root(name)}, but {node.from_} is "
                f"trained in {before.template} and has that as its own. Fix: set both to the same template"  # type: ignore[attr-defined]
            )


def _masks_of_fastchat(recipe: Recipe) -> Iterator[str]:
    """FastChat counts the tokens of Llama tokenizers; of a stand-in it is known before anything starts what it has."""
    for name in recipe.trained:
        node, root = recipe.node(name), recipe.node(recipe.root(name))
        chunks = recipe.node(node.on)
        if not isinstance(chunks, kinds.Chunk) or not isinstance(root, kinds.TinyStandIn):
            continue
        if (node.mode or chunks.mode) == "fastchat" and root.tiny.tokenizer_kind != "llama":
            yield (
                f"models.{name}.on: FastChat's masks are for Llama tokenizers, and {recipe.root(name)} has one of the "
                f"kind {root.tiny.tokenizer_kind}. Fix: set datasets.{node.on}.mode to lossless or whole"
            )


def _measured_as_trained(recipe: Recipe, name: str) -> Iterator[str]:
    """Conversations are read in one way for all models: where nothing is said, that in which they were trained."""
    node = recipe.node(name)
    dataset = recipe.dataset_of(name)
    if not isinstance(node, kinds.LikeTrained):
        return
    trained = [recipe.node(model) for model in recipe.trained if recipe.node(model).on == dataset]
    for key in ("template", "loss_on"):
        ways = {getattr(each, key): None for each in trained}
        if getattr(node, key) is None and len(ways) > 1:
            yield (
                f"evaluations.{name}.{key}: models are trained on {dataset} with {' and '.join(map(str, ways))}, and "
                "all are measured with one. Fix: set it to one of them"
            )
    chunks, like = recipe.node(dataset), trained[0] if trained else None
    template = node.template or getattr(like, "template", chunks.template)
    loss_on = node.loss_on or getattr(like, "loss_on", "answers")
    if (node.mode or chunks.mode) == "fastchat" and (template, loss_on) != FASTCHAT:
        yield (
            f"evaluations.{name}: {_NOT_FASTCHAT} {template} and {loss_on}. Fix: set evaluations.{name}.mode to "
            "lossless"
        )


def _template_of_chunks(where: str, node: Any, chunks: kinds.Chunk) -> Iterator[str]:
    if (node.mode or chunks.mode) == "fastchat":
        if (node.template, node.loss_on) != FASTCHAT:
            yield (
                f"{where}: {_NOT_FASTCHAT} {node.template} and {node.loss_on}. Fix: set datasets.{node.on}.mode to "
                f"whole, or to lossless with template: {node.template}, and leave out the mode of the model"
            )
    elif chunks.mode == "lossless" and node.template != chunks.template:
        yield (
            f"{where}.template: found {node.template!r}, but datasets.{node.on} is cut for the template "
            f"{chunks.template}. Fix: set datasets.{node.on}.template to {node.template}"
        )


def _choose(names: list[str]) -> str:
    return f"choose {' or '.join(names)}" if names else "there is no dataset that it could learn from"


def _circles(models: Mapping[str, Any]) -> Iterator[str]:
    for name in models:
        line = [name]
        while isinstance(node := models.get(line[-1]), kinds.TrainedModel) and node.from_ not in line:
            line.append(node.from_)
        if isinstance(node, kinds.TrainedModel) and node.from_ == name:
            yield f"models.{name}.from: models start from each other in a circle: {' → '.join([*line, name])}"


def _evaluation(nodes: Nodes, where: str, node: Any) -> Iterator[str]:
    kind = kinds.kind_of_evaluation(node)
    reads = load_evaluation(kind).reads
    conversations = (kinds.Chunk, kinds.Mix)
    fitting = {"conversations": conversations, "pairs": (kinds.Pairs,), "prompts": (*conversations, kinds.Pairs)}[reads]
    allowed = [name for name, each in nodes.datasets.items() if isinstance(each, fitting)]
    dataset = getattr(node, kind)
    if dataset not in allowed:
        what = {"conversations": "dataset of conversations", "pairs": "dataset of pairs", "prompts": "dataset"}[reads]
        yield unknown(f"{where}.{kind}", dataset, allowed, what)
    elif isinstance(nodes.datasets[dataset], kinds.Mix):
        yield from _chunks_of(nodes, f"{where}.{kind}", dataset)
    elif reads == "pairs" and not _read_like(nodes, dataset):
        yield (
            f"{where}: no model is trained on {dataset}, so nothing says how its pairs are tokenized; train one, or "
            "remove this evaluation"
        )
    for name in [] if node.models == "all" else node.models:
        if name not in nodes.models:
            yield unknown(f"{where}.models", name, nodes.models, "model")
    if isinstance(node, kinds.AgainstReference) and node.reference not in nodes.models:
        yield unknown(f"{where}.reference", node.reference, nodes.models, "model")


def _chunks_of(nodes: Nodes, where: str, mix: str) -> Iterator[str]:
    """Conversations are measured as chunks: there must be one dataset that has them."""
    chunks = kinds.chunks_of(nodes.datasets, mix)
    if not chunks:
        yield f"{where}: no dataset cuts the conversations of {mix} into chunks; add one, or remove this evaluation"
    elif len(chunks) > 1:
        yield f"{where}: {mix} is cut into chunks by {' and by '.join(chunks)}; say which, as in {where}: {chunks[0]}"


def _read_like(nodes: Nodes, dataset: str) -> bool:
    trained = [each for each in nodes.models.values() if isinstance(each, kinds.TrainedModel)]
    return any(each.on == dataset and isinstance(each, PairTokens) for each in trained)


def _tokenizers(recipe: Recipe) -> Iterator[str]:
    """Chunks are cut for one tokenizer: a model with another one is refused."""
    for name in recipe.trained:
        node = recipe.node(name)
        dataset = recipe.nodes.datasets[node.on]
        if isinstance(dataset, kinds.Chunk) and (theirs := recipe.root(dataset.tokenizer)) != recipe.root(name):
            yield (
                f"models.{name}.on: {node.on} is cut for the tokenizer of {theirs}, and {name} has that of "
                f"{recipe.root(name)}; cut a dataset for it: {{like: {node.on}, tokenizer: {recipe.root(name)}}}"
            )


def _evaluated(recipe: Recipe) -> Iterator[str]:
    for name, node in recipe.nodes.evaluations.items():
        tokenizer = recipe.tokenizer_of(name)
        reference = getattr(node, "reference", None)
        if reference is not None and tokenizer != recipe.root(reference):
            yield (
                f"evaluations.{name}.reference: {reference} has the tokenizer of {recipe.root(reference)}, and what is "
                f"measured on is tokenized with that of {tokenizer}; choose a model that comes from {tokenizer}"
            )
        for model in [] if node.models == "all" else node.models:
            if tokenizer not in {None, recipe.root(model)}:
                yield (
                    f"evaluations.{name}.models: {model} has the tokenizer of {recipe.root(model)}, and what is "
                    f"measured on is tokenized with that of {tokenizer}; remove it from the list"
                )
        if not recipe.evaluated(name):
            yield f"evaluations.{name}.models: there is no model that it could measure; remove this evaluation"


def _trainings(recipe: Recipe) -> Iterator[str]:
    for name in recipe.trained:
        node, where = recipe.node(name), f"models.{name}"
        if bool(node.evaluation.examples) != bool(node.evaluation.every_examples):
            yield f"{where}.evaluation: examples and every_examples must be both 0 or both positive"
        dataset = recipe.nodes.datasets[node.on]
        if not isinstance(dataset, kinds.Chunk):
            continue
        if node.evaluation.examples and not recipe.nodes.datasets[dataset.chunk].heldout:
            yield (
                f"{where}.evaluation.examples: found {node.evaluation.examples}, but datasets.{dataset.chunk}.heldout "
                "is 0: withhold some conversations, or set it to 0"
            )
        root = recipe.nodes.models[recipe.root(name)]
        if isinstance(root, kinds.TinyStandIn) and dataset.max_length > root.tiny.context:
            yield (
                f"datasets.{node.on}.max_length: found {dataset.max_length}, more than "
                f"models.{recipe.root(name)}.tiny.context ({root.tiny.context}); lower it or raise the context"
            )


def find_collisions(recipe: Recipe) -> Iterator[str]:
    """Two nodes may not make the same file."""
    made: defaultdict[str, set[str]] = defaultdict(set)
    for path, node in recipe.data_files():
        made[path].add(node)
        made[paths.manifest(path)].add(node)
    for path, makers in made.items():
        if len(makers) > 1:
            yield f"datasets: {' and '.join(sorted(makers))} would both make {path}; rename one of them"


def _hardware(recipe: Recipe) -> Iterator[str]:
    for name in recipe.nodes.hardware:
        if name in recipe.nodes.evaluations:
            hardware = recipe.hardware("evaluate", name)
        elif name in recipe.nodes.models or name == "default":
            hardware = recipe.hardware("train", name)
        else:
            hardware = recipe.hardware(cast(Work, name))
        if hardware.device == "cpu" and hardware.attention not in {"auto", "sdpa"}:
            yield f"hardware.{name}.attention: found {hardware.attention!r}, which needs device: cuda; use auto or sdpa"


def _attention(recipe: Recipe) -> Iterator[str]:
    """Flash attention has no kernel for float32, which a GPU would say in the first forward pass."""
    computed: list[tuple[Work, str | None, str | None]] = [
        *(("train", name, recipe.training(name).precision) for name in recipe.trained),
        *(
            ("score_reference", None, precision)
            for precision in {each.precision for each in recipe.all_scores.values()}
        ),
        *(
            ("evaluate", name, getattr(recipe.evaluation_settings(name), "precision", None))
            for name in recipe.nodes.evaluations
        ),
    ]
    for work, node, precision in computed:
        hardware, name = recipe.hardware(work, node), node or work
        if hardware.device == "cuda" and hardware.attention in {"varlen", "flash"} and precision == "float32":
            yield (
                f"hardware.{name}.attention: found {hardware.attention!r}, which cannot compute in float32, the "
                f"precision of {name}. Fix: set hardware.{name}.attention to auto"
            )
