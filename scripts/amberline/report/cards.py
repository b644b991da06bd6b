"""Model cards: what a model is, what went into it, and how it departs from the published recipe."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, StrictUndefined
from pydantic import Field

from amberline.core.digests import canonical, value_digest
from amberline.core.manifests import Manifest
from amberline.core.settings import DescriptionSettings, leaves
from amberline.recipe.export import CardSource, CardText
from amberline.templates.registry import load_template
from amberline.training.staleness import kept_changes

NOT_STATED = "not stated"
# What the hub takes for a licence; words that say more stand in the table of sources alone.
IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]*")

TEMPLATE = """\
---
library_name: transformers
pipeline_tag: text-generation
license: {{ licence }}
{%- if datasets %}
datasets:
{%- for name in datasets %}
- {{ name }}
{%- endfor %}
{%- endif %}
tags:
- amberline
{%- if objective %}
- {{ objective }}
{%- endif %}
---

# {{ name }}

Made by Amberline, after LLM360's "Finetuning Amber": the model `{{ node }}` of the recipe, trained
{%- if objective %} with the objective `{{ objective }}`{% endif %} for \
{{ "{:,}".format(training.facts.steps) }} optimizer steps over {{ "{:,}".format(training.facts.examples) }} examples, \
{{ "{:,}".format(training.facts.loss_tokens) }} tokens with loss. Weights in {{ dtype }}.
{%- if variant %}

It is `{{ variant.base }}` of the variant `{{ variant.name }}`, which changes \
{% for change in variant.changes %}`{{ change }}`{{ ", " if not loop.last }}{% endfor %} and has all else from the base.
{%- endif %}

## Prompting

{{ prompting }}

## Sources and licences

| source | revision | file | sha256 | licence |
|---|---|---|---|---|
{%- for source in sources %}
| {{ source.repository or source.name }} | {{ source.revision or "–" }} | {{ source.file or "–" }} | \
{{ source.sha256[:16] ~ "…" if source.sha256 else "–" }} | {{ source.licence }} |
{%- endfor %}

These are the licences that the sources state. What they mean for this model is for you to decide.
{%- if not_stated %} Where none is stated, ask whoever \
published the source before you use this model.{% endif %}

## Departures from the published recipe

{% for key, values in deviations | dictsort -%}
- `{{ key }}`: published `{{ values.published | json }}`, here `{{ values.here | json }}`
{% else -%}
None.
{% endfor %}
## Training

| setting | value |
|---|---|
{%- for key, value in settings %}
| `{{ key }}` | {{ value | json }} |
{%- endfor %}

Metrics of the last step: {% for key, value in training.facts.final_metrics | dictsort if value is number -%}
`{{ key }}` {{ "%.6g" | format(value) }}{{ ", " if not loop.last else "." }}
{%- endfor %}

## Provenance

| what | sha256 |
|---|---|
{%- for what, digest in digests | dictsort %}
| {{ what }} | `{{ digest }}` |
{%- endfor %}

Trained with {% for name, version in packages | dictsort -%}
{{ name }} {{ version }}{{ ", " if not loop.last else "." }}
{%- endfor %} `manifest.json` beside this file has the sha256 of every other file.
{%- for part in earlier %}

Until step {{ part.until_step }} the training ran with other code or packages: code `{{ part.code }}`, \
{% for name, version in part.packages | dictsort -%}
{{ name }} {{ version }}{{ ", " if not loop.last else "." }}
{%- endfor %}
{%- endfor %}
{%- if kept %}

These weights were kept (`stale: keep`) although this has changed since they were trained: {{ kept | join(", ") }}.
{%- endif %}
"""


class CardVariant(DescriptionSettings):
    """The variant that adds a model."""

    name: str = Field(description="name of the variant")
    base: str = Field(description="the model of the base that stands where this one does")
    changes: list[str] = Field(description="dotted keys that the variant sets, with their values")


# Trainings stand on the file of `CardText`; what is said here alone makes none of them stale.
class ComparedCardText(CardText):
    """What a model card says, and of which variant the model is."""

    variant: CardVariant | None = Field(description="the variant that adds the model; null: it is of the base")


@dataclass(frozen=True)
class Card:
    """What goes into a card: text of the configuration, and manifests."""

    text: ComparedCardText
    node: str  # the model's name in the recipe
    model: Manifest  # of the exported folder
    training: Manifest  # of the training that made the weights
    raw: Mapping[str, Manifest]  # of raw files, by the name of their source
    base: Manifest  # of the model at the start of its line


def render_card(card: Card) -> str:
    """The model card in Markdown, with the front matter that the Hugging Face hub reads."""
    sources = [_source(card, each) for each in sorted(card.text.sources, key=lambda source: source.name)]
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701, Markdown
    environment.filters["json"] = canonical
    facts = card.training["facts"]
    return environment.from_string(TEMPLATE).render(
        name=card.text.name,
        node=card.node,
        variant=card.text.variant,
        objective=facts.get("objective"),  # not told by trainings of old
        dtype=card.model["settings"]["dtype"],
        prompting=load_template(card.model["settings"]["template"]).prompting,
        deviations=card.text.deviations,
        training=card.training,
        settings=list(leaves(card.training["settings"])),
        sources=sources,
        licence=_licence(sources),
        not_stated=any(each["licence"] == NOT_STATED for each in sources),
        datasets=sorted({each["repository"] for each in sources if each["repository"] and each["name"] in card.raw}),
        digests={
            "weights": facts["weights_sha256"],
            "code of the training": facts["made_with"]["code"],
            "settings of the training": value_digest(card.training["settings"]),
            **{f"input: {name}": digest for name, digest in facts["made_with"]["inputs"].items()},
        },
        packages=facts["made_with"]["packages"],
        earlier=facts["earlier"],
        kept=kept_changes(facts),
    )


def _licence(sources: Sequence[Mapping[str, Any]]) -> str:
    """The one identifier that the hub wants; where sources differ, the table of the card says which is whose."""
    licences = {source["licence"] for source in sources}
    alone = licences.pop() if len(licences) == 1 else ""
    return alone if IDENTIFIER.fullmatch(alone) else "other"


def _source(card: Card, source: CardSource) -> dict[str, Any]:
    """A row of the table of sources: what the configuration says of it, and the content that was found."""
    found = card.raw.get(source.name)
    values = {**source.model_dump(), "sha256": found["facts"]["sha256"] if found else None}
    # A branch was resolved to a commit when the model was fetched.
    commit = None if found or not source.repository else card.base["facts"].get("commit")
    return {**values, "revision": commit or source.revision, "licence": source.licence or NOT_STATED}
