"""The recipe as a graph: which node is made from which, and the artefacts that nodes share.

An artefact is keyed by the settings that it depends on and by what it is made from, never by who uses it: models that
read the same tokens, or need the same scores of a reference, share them.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeVar

from amberline.core.digests import canonical, value_digest
from amberline.core.settings import Kind, Settings
from amberline.evaluations.base import Evaluation
from amberline.evaluations.registry import load_evaluation
from amberline.objectives.base import Objective
from amberline.objectives.registry import load_objective
from amberline.objectives.settings import Training
from amberline.recipe import nodes as kinds
from amberline.recipe import paths
from amberline.recipe.data import Chunk as ChunkSettings
from amberline.recipe.data import ConversationTokens, PairTokens, PreferenceTokens, Pretrained
from amberline.recipe.data import Mix as MixSettings
from amberline.recipe.data import Pairs as PairsSettings
from amberline.recipe.data import Tiny as TinySettings
from amberline.recipe.export import Exported
from amberline.recipe.hardware import Hardware
from amberline.recipe.resolve import SECTIONS, Around, Nodes

AnySettings = TypeVar("AnySettings", bound=Settings)
Work = Literal["train", "score_reference", "evaluate"]
Watching = Literal["train", "heldout"]  # what a training reads: to learn from, or to be watched on


class Tokens(NamedTuple):
    """A token folder, as it is asked for."""

    dataset: str
    part: str  # "" or "heldout" of conversations, "train" or "test" of pairs
    tokenizer: str  # the model that the tokenizer is of
    settings: ConversationTokens | PreferenceTokens

    @property
    def name(self) -> str:
        """Dataset and part for people, and a digest of the rest."""
        asked = {"tokenizer": self.tokenizer, **self.settings.model_dump(mode="json")}
        responses = getattr(self.settings, "responses", None) or ""
        return f"{paths.part_name(paths.part_name(self.dataset, self.part), responses)}-{value_digest(asked)[:8]}"

    @property
    def of_pairs(self) -> bool:
        """Whether it is made from a dataset of pairs."""
        return isinstance(self.settings, PreferenceTokens)


class Scores(NamedTuple):
    """The log-probabilities of a reference model, as they are asked for."""

    model: str
    tokens: Tokens
    precision: str
    tf32: bool

    @property
    def name(self) -> str:
        """Model and rows for people, and how it is computed."""
        return f"{self.model}-on-{self.tokens.name}-{self.precision}{'-tf32' if self.tf32 else ''}"


@dataclass(frozen=True)
class Variant:
    """A variant, and which of its nodes are not those of the base."""

    name: str
    changes: list[str]  # dotted keys that it sets
    own: list[str] = field(default_factory=list)  # nodes that it adds
    same: Mapping[str, str] = field(default_factory=dict)  # of the nodes that it changes, those that are there already


@dataclass(frozen=True)
class Recipe:
    """A recipe that is right."""

    nodes: Nodes
    variants: tuple[Variant, ...] = ()
    measured_on: Mapping[str, str] = field(default_factory=dict)  # where variants cut conversations more than once

    @property
    def around(self) -> Around:
        """What holds for the whole recipe: results, environment, stale, data_hardware, tracking."""
        return self.nodes.around

    @property
    def names(self) -> list[str]:
        """The names of all nodes."""
        return [name for section in SECTIONS for name in getattr(self.nodes, section)]

    @property
    def other_names(self) -> dict[str, str]:
        """Names under which variants know nodes that are there under another name."""
        return {name: there for variant in self.variants for name, there in variant.same.items()}

    @property
    def trained(self) -> list[str]:
        """Names of the models that are trained here."""
        return self.models(kinds.TrainedModel)

    def datasets(self, kind: type) -> list[str]:
        """Names of the datasets of a kind."""
        return [name for name, node in self.nodes.datasets.items() if isinstance(node, kind)]

    def models(self, kind: type) -> list[str]:
        """Names of the models of a kind."""
        return [name for name, node in self.nodes.models.items() if isinstance(node, kind)]

    def node(self, name: str) -> Any:
        """A node by its name, which is unique over all kinds."""
        sections = (getattr(self.nodes, section) for section in SECTIONS)
        return next(section[name] for section in sections if name in section)

    # Sources and datasets

    def raw(self, source: str) -> str:
        """Where the raw file of a source lies, or the folder of its files."""
        node = self.nodes.sources[source]
        return paths.raw(source, None if node.files else node.path or node.file or "")

    def formats(self, sources: Iterable[str]) -> list[str]:
        """How the rows of sources are read."""
        return [self.nodes.sources[name].format for name in sources]

    def parts(self, dataset: str) -> list[str]:
        """The parts of a dataset that are files of their own."""
        return ["train", "test"] if isinstance(self.nodes.datasets[dataset], kinds.Pairs) else ["", "heldout"]

    def sources_of(self, dataset: str, part: str = "") -> list[str]:
        """The sources that a dataset, or a split of it, is made from, in their order."""
        node = self.nodes.datasets[dataset]
        if isinstance(node, kinds.Mix):
            return list(node.mix)
        if isinstance(node, kinds.Chunk):
            return self.sources_of(node.chunk)
        return [name for split in ([part] if part else self.parts(dataset)) for name in node.pairs.sources(split)]

    def mix_settings(self, dataset: str) -> MixSettings:
        """What determines a mix, beside its sources."""
        node = self.nodes.datasets[dataset]
        shares = [node.share(source) for source in node.mix]
        return MixSettings(seed=node.seed, heldout=node.heldout, formats=self.formats(node.mix), shares=shares)

    def chunk_settings(self, dataset: str) -> ChunkSettings:
        """What determines how a dataset is cut."""
        return _part_of(self.nodes.datasets[dataset], ChunkSettings)

    def pairs_settings(self, dataset: str, part: str) -> PairsSettings:
        """What determines a split of a dataset of pairs, beside its sources."""
        node = self.nodes.datasets[dataset]
        return PairsSettings(select=node.select, formats=self.formats(node.pairs.sources(part)))

    def conversation_tokens(self, dataset: str, part: str, asked: kinds.OfConversations | kinds.LikeTrained) -> Tokens:
        """Tokens of chunks. What is not said: template and loss are those of a trained model, the mode is theirs."""
        chunks = self.nodes.datasets[dataset]
        like = next((self.nodes.models[name] for name in self.trained if self.nodes.models[name].on == dataset), None)
        settings = ConversationTokens(
            template=asked.template or (like.template if like else chunks.template),
            loss_on=asked.loss_on or (like.loss_on if like else "answers"),
            mode=asked.mode or ("fastchat" if chunks.mode == "fastchat" else "lossless"),
            max_length=chunks.max_length,
        )
        return Tokens(dataset, part, self.root(chunks.tokenizer), settings)

    def pair_tokens(
        self, dataset: str, part: str, asked: PairTokens, tokenizer: str, responses: Literal["chosen"] | None = None
    ) -> Tokens:
        """Tokens of a split of pairs: of both responses, or of one."""
        settings = PreferenceTokens(responses=responses, **_part_of(asked, PairTokens).model_dump())
        return Tokens(dataset, part, tokenizer, settings)

    # Models

    def root(self, model: str) -> str:
        """The model that a model's tokenizer comes from: the one at the start of its line."""
        node = self.nodes.models[model]
        return self.root(node.from_) if isinstance(node, kinds.TrainedModel) else model

    def title(self, model: str) -> str:
        """The name of a model for people."""
        return self.nodes.models[model].title or model

    def pretrained(self, model: str) -> Pretrained:
        """Where a pretrained model comes from."""
        return _part_of(self.nodes.models[model], Pretrained)

    def tiny_settings(self, model: str) -> TinySettings:
        """What determines a stand-in for a pretrained model, beside its texts."""
        node = self.nodes.models[model]
        return TinySettings(tiny=node.tiny, formats=self.formats(node.texts))

    def objective(self, model: str) -> type[Objective]:
        """The objective that a model is trained with."""
        return load_objective(self.nodes.models[model].train)

    def training(self, model: str) -> Training:
        """The settings of a model's training."""
        return _part_of(self.nodes.models[model], self.objective(model).Settings)

    def exported(self, model: str) -> Exported:
        """How a model is exported."""
        return _part_of(self.nodes.models[model], Exported)

    def tokens(self, model: str, what: Watching = "train") -> Tokens:
        """What a model is trained on, or watched on."""
        node = self.nodes.models[model]
        if isinstance(self.nodes.datasets[node.on], kinds.Chunk):
            return self.conversation_tokens(node.on, "" if what == "train" else what, node)
        part, responses = "train" if what == "train" else "test", getattr(node, "responses", None)
        return self.pair_tokens(node.on, part, node, self.root(model), responses)

    def scores(self, model: str, what: Watching = "train") -> Scores | None:
        """The reference's scores of what a model is trained or watched on; None if its objective needs none.

        The reference is the model that training starts from, computing as the training does.
        """
        if not self.objective(model).needs_reference:
            return None
        training = self.training(model)
        return Scores(self.nodes.models[model].from_, self.tokens(model, what), training.precision, training.tf32)

    @cached_property
    def runs(self) -> dict[str, str]:
        """By model, the name of its training: that of the first model with an equal one, however it is exported."""
        first: dict[str, str] = {}
        return {model: first.setdefault(self._training_key(model), model) for model in self.trained}

    def _training_key(self, model: str) -> str:
        """What determines a model's training."""
        node, settings = self.nodes.models[model], self.training(model).of(Kind.RESULT)
        return canonical([node.train, settings, self._model_key(node.from_), self.tokens(model).name])

    def _model_key(self, model: str) -> str:
        """What determines a model: two that are trained and exported alike are one to those that start from them."""
        if model not in self.trained:
            return model
        return canonical([self._training_key(model), self.exported(model).of(Kind.RESULT)])

    def uses(self, model: str) -> set[str]:
        """All nodes that went into a model, itself too."""
        node = self.nodes.models[model]
        if isinstance(node, kinds.TrainedModel):
            return {model, *self.uses(node.from_), *self._made_from(node.on)}
        return {model, *(node.texts if isinstance(node, kinds.TinyStandIn) else ())}

    def _made_from(self, dataset: str) -> set[str]:
        node = self.nodes.datasets[dataset]
        if isinstance(node, kinds.Chunk):
            return {dataset, *self._made_from(node.chunk), *self.uses(self.root(node.tokenizer))}
        return {dataset, *self.sources_of(dataset)}

    # Evaluations

    def kind_of(self, evaluation: str) -> str:
        """The name of an evaluation's kind."""
        return kinds.kind_of_evaluation(self.nodes.evaluations[evaluation])

    def measure(self, evaluation: str) -> type[Evaluation]:
        """The kind of an evaluation."""
        return load_evaluation(self.kind_of(evaluation))

    def evaluation_settings(self, evaluation: str) -> Any:
        """What determines what an evaluation finds, beside its inputs."""
        return _part_of(self.nodes.evaluations[evaluation], self.measure(evaluation).Settings)

    def dataset_of(self, evaluation: str) -> str:
        """The dataset that is measured on; of conversations that are not cut, the one that has their chunks."""
        if evaluation in self.measured_on:
            return self.measured_on[evaluation]
        dataset = str(getattr(self.nodes.evaluations[evaluation], self.kind_of(evaluation)))
        return next(iter(kinds.chunks_of(self.nodes.datasets, dataset)), dataset)

    def evaluated(self, evaluation: str) -> list[str]:
        """The models that are measured."""
        named = self.nodes.evaluations[evaluation].models
        return self.measurable(evaluation) if named == "all" else list(named)

    def measurable(self, evaluation: str) -> list[str]:
        """The models that can be measured: those with the tokenizer of what is measured on."""
        tokenizer = self.tokenizer_of(evaluation)
        return [name for name in self.nodes.models if tokenizer in {None, self.root(name)}]

    def tokenizer_of(self, evaluation: str) -> str | None:
        """The model whose tokenizer an evaluation's tokens are made with; None if it reads text."""
        match self.measure(evaluation).reads:
            case "conversations":
                return self.root(self.nodes.datasets[self.dataset_of(evaluation)].tokenizer)
            case "pairs":
                return self.root(self._like(evaluation))
        return None

    def _like(self, evaluation: str) -> str:
        """The model as which an evaluation reads pairs: its reference, else the first one trained on the dataset."""
        dataset, asked = self.dataset_of(evaluation), self.nodes.evaluations[evaluation]
        trained = [name for name in self.trained if self.nodes.models[name].on == dataset]
        reference = getattr(asked, "reference", None)
        return reference if reference in trained else trained[0]

    def evaluation_tokens(self, evaluation: str) -> Tokens | None:
        """The tokens that an evaluation reads; None if it reads text."""
        dataset, reads = self.dataset_of(evaluation), self.measure(evaluation).reads
        if reads == "conversations":
            return self.conversation_tokens(dataset, "heldout", self.nodes.evaluations[evaluation])
        if reads == "prompts":
            return None
        like = self._like(evaluation)
        return self.pair_tokens(dataset, "test", self.nodes.models[like], self.root(like))

    def evaluation_scores(self, evaluation: str) -> Scores | None:
        """The reference's scores that an evaluation needs; None if it needs none."""
        tokens = self.evaluation_tokens(evaluation)
        if tokens is None or not self.measure(evaluation).needs_reference:
            return None
        settings = self.evaluation_settings(evaluation)
        return Scores(self.nodes.evaluations[evaluation].reference, tokens, settings.precision, settings.tf32)

    def prompts_of(self, evaluation: str) -> str:
        """The file whose prompts are asked."""
        dataset = self.dataset_of(evaluation)
        return paths.data(dataset, self.parts(dataset)[-1])

    # What nodes share

    @cached_property
    def all_tokens(self) -> dict[str, Tokens]:
        """All token folders, by name."""
        asked: list[Tokens | None] = [self.tokens(name, what) for name in self.trained for what in ("train", "heldout")]
        asked += [self.evaluation_tokens(name) for name in self.nodes.evaluations]
        return {each.name: each for each in asked if each}

    @cached_property
    def all_scores(self) -> dict[str, Scores]:
        """All scores of references, by name."""
        asked = [self.scores(name, what) for name in self.trained for what in ("train", "heldout")]
        asked += [self.evaluation_scores(name) for name in self.nodes.evaluations]
        return {each.name: each for each in asked if each}

    # Machines and files

    def hardware(self, work: Work, node: str | None = None) -> Hardware:
        """On what something runs: the default, what differs for this kind of work, and what differs for this node."""
        values: dict[str, Any] = {}
        for name in ("default", work, node):
            values |= self.nodes.hardware.get(name or "", {})
        if work == "evaluate" and node and self.measure(node).one_process:
            share = max(1, values["memory_gb"] // values["ranks_per_node"])
            values |= {"nodes": 1, "ranks_per_node": 1, "memory_gb": share}
        return Hardware.model_validate(values)

    def files(self, name: str) -> list[str]:
        """What is made when a node is asked for by its name, a card aside."""
        if name in self.nodes.sources:
            return [self.raw(name)]
        if name in self.nodes.datasets:
            return [paths.data(name, part) for part in self.parts(name) if part != "heldout"]
        if name in self.nodes.models:
            return [paths.model(name)]
        return [paths.evaluation(name, model) for model in self.evaluated(name)]

    def data_files(self) -> Iterator[tuple[str, str]]:
        """Every file of a dataset, with the dataset."""
        for name in self.nodes.datasets:
            for part in self.parts(name):
                yield paths.data(name, part), name
                if isinstance(self.nodes.datasets[name], kinds.Pairs):
                    yield paths.pair_lines(name, part), name


def alternatives(names: Sequence[str]) -> str:
    """A regular expression for exactly these names."""
    return "|".join(map(re.escape, names)) or "(?!)"


def _part_of(node: Any, settings: type[AnySettings]) -> AnySettings:
    """Those keys of a node that settings have."""
    return settings(**{key: getattr(node, key) for key in settings.model_fields})
