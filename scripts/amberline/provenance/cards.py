"""Model cards: what a model is, what went into it, and how it departs from the published recipe."""

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, StrictUndefined

from amberline.provenance.digests import canonical, value_digest

# Packages whose versions matter to the weights and to their use.
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "datasets")

PROMPTING = {
    "vicuna": (
        "Trained on the Vicuna v1.1 template, which is this folder's chat template: use `apply_chat_template`, or in "
        "FastChat `--conv-template vicuna_v1.1`. FastChat does not find the template by the model's name by itself."
    ),
    "none": (
        "The preference training saw bare prompts: no template, no beginning-of-sequence token, nothing between prompt "
        "and response. The chat template in this folder is that of the chat model it started from. Say which of the "
        "two an evaluation used; they give different figures."
    ),
}

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
- amber
- {{ training.facts.stage }}
---

# {{ name }}

Made by Amberline, stage `{{ training.facts.stage }}` of the recipe of LLM360's "Finetuning Amber":
{{ "{:,}".format(training.facts.steps) }} optimizer steps over {{ "{:,}".format(training.facts.examples) }} examples, \
{{ "{:,}".format(training.facts.loss_tokens) }} tokens with loss. Weights in {{ dtype }}.

## Prompting

{{ prompting }}

## Sources and licences

| source | revision | file | sha256 | licence |
|---|---|---|---|---|
{%- for source in sources %}
| {{ source.repository or source.name }} | {{ source.revision or "–" }} | {{ source.file or "–" }} | \
{{ source.sha256[:16] ~ "…" if source.sha256 else "–" }} | {{ source.licence }} |
{%- else %}
| none recorded: this model and its data are stand-ins | – | – | – | – |
{%- endfor %}

A licence binds what is made from its data: the strictest of these binds this model.

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

Figures of the last step: {% for key, value in training.facts.final_metrics | dictsort if value is number -%}
`{{ key }}` {{ "%.6g" | format(value) }}{{ ", " if not loop.last else "." }}
{%- endfor %}

## Provenance

| what | sha256 |
|---|---|
{%- for what, digest in digests | dictsort %}
| {{ what }} | `{{ digest }}` |
{%- endfor %}

Exported with Python {{ python }}, {% for name, version in versions.items() -%}
{{ name }} {{ version }}{{ ", " if not loop.last else "." }}
{%- endfor %} `manifest.json` beside this file has the sha256 of every file.
"""


@dataclass(frozen=True)
class Card:
    """What goes into a card. `training` is the manifest of the training that made the weights."""

    name: str
    dtype: str
    template: str  # vicuna or none
    deviations: Mapping[str, Mapping[str, Any]]  # {key: {published, here}}
    training: Mapping[str, Any]
    sources: Iterable[Mapping[str, Any]]
    code: str  # digest of the training program and all that it imports


def render_card(card: Card) -> str:
    """The model card in Markdown, with the front matter that the Hugging Face hub reads."""
    sources = sorted(card.sources, key=lambda source: str(source["name"]))
    licences = {source["licence"] for source in sources}
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701, Markdown
    environment.filters["json"] = canonical
    return environment.from_string(TEMPLATE).render(
        name=card.name,
        dtype=card.dtype,
        prompting=PROMPTING[card.template],
        deviations=card.deviations,
        training=card.training,
        settings=list(_leaves(card.training["settings"])),
        sources=sources,
        # The hub wants one identifier; where sources differ, the table below says which is whose.
        licence=licences.pop() if len(licences) == 1 else "other",
        datasets=sorted(
            {each["repository"] for each in sources if each["repository"] and each["name"] != "base_model"}
        ),
        digests={
            "code of the training": card.code,
            "configuration of the training": value_digest(card.training["settings"]),
            "installed packages": value_digest(_installed()),
            **{f"input: {name}": each["digest"] for name, each in card.training["inputs"].items()},
        },
        python=platform.python_version(),
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
    )


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _installed() -> dict[str, str]:
    """Every installed package and its version."""
    return {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
