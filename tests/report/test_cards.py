"""Model cards of any model of any recipe."""

import json

import pytest
import yaml

import write_card
from amberline.core.manifests import write_manifest

FACTS = {
    "stage": "tuned.v2",
    "objective": "dpo",
    "steps": 3,
    "examples": 96,
    "loss_tokens": 1234,
    "final_metrics": {"loss": 0.5},
    "weights_sha256": "3" * 64,
    "made_with": {"code": "c" * 64, "packages": {"torch": "2.13.0"}, "inputs": {"model": "m", "tokens": "t"}},
    "earlier": [],
}
PAIRS = {"name": "pairs.x", "repository": "P/pairs", "revision": "r1", "file": "a.xz", "licence": "mit"}
CHAT = {"name": "chat", "repository": "X/Chat-7b", "revision": "main", "file": None, "licence": "mit"}


def made(path, kind, **more):
    """Something made, of one file, with its manifest."""
    path.mkdir(parents=True)
    (path / "content").write_text(kind)
    write_manifest(path, kind=kind, files=[path / "content"], inputs={}, **{"settings": {}, "facts": {}, **more})
    return path


@pytest.fixture
def card(tmp_path):
    """Write the card of a model whose line starts with one that has the facts `base`; return its text."""

    def write(*sources, base, template="vicuna", variant=None):
        model = made(tmp_path / "models/tuned.v2", "model", settings={"dtype": "float32", "template": template})
        run = made(tmp_path / "run", "training", settings={"beta": 0.5}, facts=FACTS)
        start = made(tmp_path / "models/chat", "model", facts=base)
        facts = {"sha256": "0123456789abcdef" * 4}
        raw = [
            made(tmp_path / "raw" / each["name"], "raw", settings={"name": each["name"]}, facts=facts)
            for each in sources
            if each["file"]
        ]
        text = json.dumps({"name": "Tuned 2", "variant": variant, "sources": sources, "deviations": {}})
        output = model / "README.md"
        write_card.main(model=model, run=run, raw=raw, base=start, settings=text, output=output)
        return output.read_text(encoding="utf-8")

    return write


def front_matter(text):
    return yaml.safe_load(text.split("---")[1])


def test_of_a_pretrained_chat_model_the_commit_is_told(card):
    text = card(PAIRS, CHAT, base={"commit": "d" * 40})
    assert f"| X/Chat-7b | {'d' * 40} | – | – | mit |" in text
    assert "| P/pairs | r1 | a.xz | 0123456789abcdef… | mit |" in text
    assert front_matter(text) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "mit",
        "datasets": ["P/pairs"],
        "tags": ["amberline", "dpo"],
    }


def test_it_says_model_and_objective(card):
    text = card(PAIRS, CHAT, base={"commit": None})
    assert "# Tuned 2\n" in text
    assert "the model `tuned.v2` of the recipe, trained with the objective `dpo` for 3 optimizer steps" in text
    assert "stage" not in text


def test_one_of_a_variant_says_of_which_and_what_it_changes(card):
    variant = {"name": "b3", "base": "tuned.v2", "changes": ["models.tuned.v2.beta: 0.3", "defaults.dpo.seed: 1"]}
    said = (
        "\n\nIt is `tuned.v2` of the variant `b3`, which changes `models.tuned.v2.beta: 0.3`, `defaults.dpo.seed: 1` "
    )
    assert said in card(PAIRS, base={}, variant=variant)


def test_one_of_the_base_says_nothing_of_variants(card):
    assert "variant" not in card(PAIRS, base={})


def test_a_stand_in_has_no_pretrained_source(card):
    text = card({**PAIRS, "repository": None, "revision": None}, base={"parameters": 5, "vocabulary": 7})
    assert "| pairs.x | – | a.xz | 0123456789abcdef… | mit |" in text
    assert front_matter(text)["license"] == "mit"


def test_a_local_model_is_named_as_in_the_recipe(card):
    local = {"name": "chat", "repository": None, "revision": None, "file": None, "licence": None}
    text = card(PAIRS, local, base={"commit": None, "origin": None})
    assert "| chat | – | – | – | not stated |" in text


@pytest.mark.parametrize(
    ("licences", "found"),
    [
        (("mit", "mit"), "mit"),
        (("mit", "apache-2.0"), "other"),
        ((None, None), "other"),
        (("mit", None), "other"),
        (("mit by its card; cc0-1.0 elsewhere",) * 2, "other"),
    ],
)
def test_one_licence_or_another(card, licences, found):
    text = card({**PAIRS, "licence": licences[0]}, {**CHAT, "licence": licences[1]}, base={})
    assert front_matter(text)["license"] == found
    assert text.count("| not stated |") == licences.count(None)
    assert ("Where none is stated" in text) == (None in licences)
    assert "None" not in text.replace("None.", "")


def test_bare_prompts_are_explained(card):
    text = card(PAIRS, CHAT, base={}, template="none")
    assert "This training saw bare prompts" in text
    assert "{{" not in text
