"""The page of recipes with variants: everything stands beside what it is compared with."""

import html
import re

import pytest

from amberline.recipe.check import deviations
from amberline.report.compared import Compared
from amberline.report.contents import contents
from amberline.report.departures import departures_of, departures_of_base
from amberline.report.page import build_page
from report.made_up import page_of, recipe_of, settings_of, write_results
from report.test_page import text_of


def beta(value):
    return {"models": {"ambersafe": {"beta": value}}}


def seed(value, model="amberchat"):
    return {"models": {model: {"seed": value}}}


BETAS = {"b2": beta(0.2), "b3": beta(0.3), "b5": beta(0.5)}
SEEDS = {f"s{number}": seed(number) for number in range(1, 5)}
LOSSLESS = {"lossless": {"datasets": {"evol-mix-split": {"mode": "lossless"}}}}
MANY = {
    **{f"b{number}": beta(number) for number in range(1, 11)},
    **{f"s{number}": seed(number) for number in range(1, 11)},
    **{f"f{number}": seed(number, "ambersafe-sft") for number in range(1, 11)},
}


def with_variants(variants, *more):
    return recipe_of(*more, {"variants": variants})


def section(page, name):
    return page.split(f'id="{name}"')[1].split("<h2")[0]


def rows_of(page, evaluation):
    """Every row of an evaluation's table: its kind, and the texts of its cells."""
    table = section(page, f"evaluation-{evaluation}").split("</table>")[0]
    rows = re.findall(r'<tr class="(base|variant|seeds)[^"]*">(.*?)</tr>', table, flags=re.DOTALL)
    return [(kind, *map(plain, re.findall(r"<td[^>]*>(.*?)</td>", row, flags=re.DOTALL))) for kind, row in rows]


def plain(text):
    return html.unescape(re.sub(r"<[^>]+>", "", re.sub(r'<span class="note">', " | ", text)))


def perplexities(recipe, values):
    """Made-up perplexities, by model."""
    return {"heldout": {name: {"perplexity": value} for name, value in values.items()}}


def seen(part):
    """The lines that are seen before anything is opened."""
    text = text_of(re.sub(r"<details>.*?</details>", "", part, flags=re.DOTALL))
    return [line for line in text.splitlines() if line.strip()]


def panels(page, title):
    """The panels of a training by title, each with the number of its curves."""
    part = page.split(f"<h3>{title}</h3>")[1].split("<h3>")[0].split("<h2")[0]
    plots = re.findall(r"<svg xmlns.*?</svg>", part, flags=re.DOTALL)
    titles = [re.findall(r">([^<]+)</text>", each)[-1] for each in plots]
    return dict(zip(titles, plots, strict=True))


# Without variants


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return page_of(recipe_of(), tmp_path_factory.mktemp("alone"))


def test_of_a_recipe_without_variants_nothing_stands_under_anything():
    found = contents(recipe_of())
    for entries in ("data", "both_modes", "trainings", "models", "evaluations"):
        assert all(each["variants"] == [] for each in found[entries])
    assert found["variants"] == found["methods_of_variants"] == []


# Three betas


@pytest.fixture(scope="module")
def betas(tmp_path_factory):
    values = {"ambersafe": 4.25, "ambersafe@b2": 4.5, "ambersafe@b3": 4.0, "ambersafe@b5": 4.25}
    recipe = with_variants(BETAS)
    return page_of(recipe, tmp_path_factory.mktemp("betas"), figures=perplexities(recipe, values))


def test_each_variant_has_a_row_that_says_what_it_changes_and_adds(betas):
    text = re.sub(r"\s+", " ", text_of(section(betas, "variants")))
    assert "b2 models.ambersafe.beta: 0.2 ambersafe@b2 13 of 14 nodes" in text


def test_rows_of_variants_are_under_the_base_with_their_differences(betas):
    rows = rows_of(betas, "heldout")
    assert [row[:2] for row in rows] == [
        *(("base", title) for title in ("Amber", "AmberChat", "AmberSafe, SFT only", "AmberSafe")),
        *(("variant", f"variant {name}") for name in BETAS),
    ]
    assert [row[2:4] for row in rows[3:]] == [("4.25", ""), ("4.50", "+0.25"), ("4.00", "−0.25"), ("4.25", "=")]
    assert "Δ: difference to the model of the base recipe" in betas


def test_tiles_are_those_of_the_base(betas):
    tiles = betas.split('class="tiles"')[1].split("<h2")[0]
    assert "variant" not in tiles
    assert re.search(r"AmberSafe, reward accuracy\s*<b>0.8125</b>", tiles)


def test_curves_of_a_base_and_its_variants_are_in_one_plot(betas):
    plots = panels(betas, "AmberSafe")
    assert list(plots) == [
        *("loss (nats)", "loss (nats), held out", "reward accuracy (share of pairs)", "reward margin (nats × β)"),
        *("gradient norm (L2)", "learning rate"),
    ]
    for plot in plots.values():
        assert plot.count("stroke-width: 1.3") >= 3
        # The base is the thickest, and the last: over the others.
        assert plot.rindex("stroke-width: 2.4") > plot.rindex("stroke-width: 1.3")
    part = betas.split("<h3>AmberSafe</h3>")[1].split("<h3>")[0]
    legend = re.findall(r"<li>.*?</svg> (.*?)</li>", part.split('class="legend"')[1].split("</ul>")[0])
    assert legend == ["ambersafe", "ambersafe@b2", "ambersafe@b3", "ambersafe@b5"]
    assert 'class="legend"' not in betas.split("<h3>AmberChat</h3>")[1].split("<h3>")[0]


def test_answers_of_variants_are_closed(betas):
    samples = section(betas, "samples")
    assert samples.count("3 answers of variants") == 2
    assert "AmberSafe, variant b2 says 1" in samples.split("<details>")[1]
    assert "variant" not in samples.split("<details>")[0]


def test_methods_tell_of_variants_what_differs_alone(betas):
    base, variants = section(betas, "methods").split("<details>")
    assert "@" not in base
    assert "<b>Variant b2.</b> AmberSafe: beta 0.2 (base recipe: 0.1).</p>" in variants


def test_margins_at_its_own_beta(betas):
    rows = {row[1]: row for row in rows_of(betas, "rewards")}
    assert rows["variant b5"][-1] == "10.00 (β = 0.5)"


# Five seeds


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    names = ["amberchat", *(f"amberchat@{name}" for name in SEEDS)]
    recipe = with_variants({**SEEDS, **LOSSLESS})
    figures = perplexities(recipe, dict(zip(names, [2.0, 4.0, 4.0, 4.0, 6.0], strict=True)))
    return page_of(recipe, tmp_path_factory.mktemp("seeds"), figures=figures)


def test_of_seeds_there_is_a_mean_and_a_deviation(seeds):
    rows = rows_of(seeds, "heldout")
    # 2, 4, 4, 4, 6: mean 4; squares of the differences 4, 0, 0, 0, 4; sd √(8 / 4) = 1.414…
    summary = rows.index(("seeds", "mean ± sd, n = 5 | base recipe, s1, s2, s3, s4", "4.00", "± 1.41", "1,121", ""))
    assert [row[1].split(" |")[0] for row in rows[summary - 6 : summary]] == [
        *("AmberChat", "variant s1", "variant s2", "variant s3", "variant s4", "variant lossless")
    ]
    assert sum(row[0] == "seeds" for row in rows) == 3, "AmberChat and both that come from it, not the base model"
    assert "sd is the sample standard deviation" in seeds


def test_rows_against_another_reference_say_so(seeds):
    rows = rows_of(seeds, "rewards")
    assert [row[1] for row in rows if row[1].startswith("variant s1")] == [
        "variant s1 | against ambersafe-sft@s1",
        "variant s1 | against ambersafe-sft@s1",
        "variant s1 reference | against ambersafe-sft@s1",
        "variant s1 | against ambersafe-sft@s1",
    ]
    assert seeds.count("as their reference, not “AmberSafe, SFT only”") == 1
    assert "The reference of all of them that name no other is “AmberSafe, SFT only”" in seeds


def test_an_evaluation_on_other_rows_says_so(seeds):
    rows = [row[1] for row in rows_of(seeds, "heldout")]
    assert rows.count("variant lossless | on evol-mix-split@lossless · lossless mode") == 4
    assert 'id="evaluation-heldout@lossless"' not in seeds


def test_data_of_a_variant_is_under_that_of_the_base(seeds):
    data = section(seeds, "data")
    head, inner = data.split("evol-mix-split: chunks of evol-mix<")[1].split("<summary>The same of variant lossless")[
        :2
    ]
    assert "evol-mix-split@lossless: chunks of evol-mix" not in head
    assert "evol-mix-split@lossless: chunks of evol-mix" in inner
    assert "trained on: AmberChat (and 4 variants)" in data
    assert data.count("<details open") == 0


def test_variants_are_drawn_alike_in_all_plots():
    trainings = contents(with_variants({**BETAS, **SEEDS}))["trainings"]
    styles = {(each["variant"], each["style"]) for group in trainings for each in group["variants"]}
    assert len(styles) == len(BETAS) + len(SEEDS)


def test_a_grid_has_a_mean_for_each_value_of_the_rest():
    sweep = {"models.ambersafe.beta": [0.2, 0.5], "models.ambersafe-sft.seed": [1, 2, 3]}
    evaluation = contents(with_variants({"grid": {"sweep": sweep}}))["evaluations"][0]
    found = [(each["of"], each["changes"], len(each["files"])) for each in evaluation["seeds"]]
    assert ("ambersafe", ["models.ambersafe.beta: 0.2"], 3) in found
    assert ("ambersafe", ["models.ambersafe.beta: 0.5"], 3) in found


@pytest.mark.parametrize(
    "overlay",
    [{"datasets": {"evol-mix": {"seed": 1}}}, {"models": {"amberchat": {"seed": 1, "learning_rate": 1e-6}}}],
)
def test_what_is_no_seed_of_a_training_alone_has_no_mean_with_the_base(overlay):
    compared = Compared(with_variants({"x": overlay}))
    assert compared.alike_but_for_seeds == []


# The same as another


def test_a_variant_that_is_another_node_is_told_where_that_stands(tmp_path):
    mild = {"models": {"mild": {"like": "ambersafe", "title": None, "beta": 0.3}}}
    page = page_of(
        with_variants({"b3": beta(0.3), "again": beta(0.3), "b5": beta(0.5), "more": beta(0.5)}, mild), tmp_path
    )
    assert "<code>ambersafe@b3</code> is <code>mild</code>" in section(page, "variants")
    rows = [row[1] for row in rows_of(page, "heldout")]
    assert rows[-3:] == [
        "AmberSafe",
        "variant b5 | also variant more",
        "mild | also AmberSafe, variant b3; AmberSafe, variant again",
    ]
    assert "<b>Variant again.</b> AmberSafe is mild.</p>" in section(page, "methods")


def test_what_the_base_has_not_leads_a_table_of_its_own(tmp_path):
    extra = {
        "evaluations": {"few": {"like": "rewards", "pairs": 8}},
        "models": {"safer": {"like": "ambersafe", "seed": 9}},
    }
    page = page_of(with_variants({"extra": extra}), tmp_path)
    assert 'id="evaluation-few@extra"' in page
    assert "safer, variant extra" in [row[1] for row in rows_of(page, "heldout")]
    assert "Trained from" in section(page, "methods").split("<details>")[1]


def test_a_template_of_a_variant_is_told_of_tokens_and_answers(tmp_path):
    variants = {"vicuna": {"models": {name: {"template": "vicuna"} for name in ("ambersafe-sft", "ambersafe")}}}
    recipe = with_variants(variants)
    figures = {"answers": {"ambersafe@vicuna": {"template": "vicuna"}}}
    page = page_of(recipe, tmp_path, figures=figures)
    assert "AmberSafe, variant vicuna in the vicuna template" in page
    assert "variant vicuna | against ambersafe-sft@vicuna · vicuna template" in [
        row[1] for row in rows_of(page, "rewards")
    ]
    titles = [each["title"] for each in contents(recipe)["data"]]
    assert len(titles) == len(contents(recipe_of())["data"])


# Ten variants of each of three models


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    recipe, results = with_variants(MANY), tmp_path_factory.mktemp("many")
    settings = settings_of(recipe, deviations=departures_of_base(Compared(recipe)))
    write_results(results, settings, {})
    return build_page(
        results, settings, "torch==2.13.0\n", {"jobs": [], "missing": None}, commit=None, machine="a machine"
    )


def test_ten_variants_of_three_models_are_all_there(many):
    rows = rows_of(many, "heldout")
    assert sum(row[0] == "variant" for row in rows) == 10 + 20 + 30
    assert "3 trained models: AmberChat; AmberSafe, SFT only; AmberSafe; and 60 more of variants." in many
    assert len(re.findall(r'<td class="name"><b>[bsf]\d+</b></td>', section(many, "variants"))) == 30


def test_beyond_ten_curves_are_grey_and_named_together(many):
    part = many.split("<h3>AmberSafe</h3>")[1].split("<h3>")[0]
    legend = re.findall(r"<li>(.*?)</svg> (.*?)</li>", part.split('class="legend"')[1].split("</ul>")[0])
    assert [name for _, name in legend[:2]] == ["ambersafe", "ambersafe@b1"]
    assert len(legend) == 1 + 10 + 1
    assert legend[-1][1].startswith("20 more: s1, s2")
    assert len({line for line, _ in legend}) == len(legend), "no two are drawn alike"


@pytest.mark.parametrize("name", ["data", "methods", "provenance"])
def test_what_is_seen_before_anything_is_opened_is_as_long_as_without_variants(many, alone, name):
    assert len(seen(section(many, name))) == len(seen(section(alone, name)))


def test_deviations_and_configuration_are_of_the_base(many):
    assert departures_of_base(Compared(with_variants(MANY))) == {}
    assert len(deviations(with_variants(MANY))) > 1000
    assert "There are no deviations." in many
    configuration = many.split("<pre>")[1].split("</pre>")[0]
    assert "@" not in configuration
    assert "models.ambersafe.beta: 1" in configuration


def test_nothing_is_written_as_python_has_it(many):
    assert not re.search(r"\b(None|nan|NaN|inf|True|False)\b", text_of(many))


# Cards


def test_a_card_of_a_variant_tells_its_departures_as_of_the_base():
    recipe = with_variants({**SEEDS, **BETAS}, {"models": {"amberchat": {"global_batch": 64}}})
    assert departures_of(Compared(recipe), recipe.uses("ambersafe@s1")) == {
        "models.amberchat.seed": {"published": 42, "here": 1},
        "models.amberchat.global_batch": {"published": 256, "here": 64},
    }
    for model in ("amberchat", "ambersafe"):
        assert departures_of(Compared(recipe), recipe.uses(model)) == deviations(recipe, among=recipe.uses(model))
    compared = Compared(recipe)
    assert compared.title("ambersafe@b3") == "AmberSafe, variant b3"
    assert compared.told_in_card("ambersafe") is None
    assert compared.told_in_card("ambersafe@b3") == {
        "name": "b3",
        "base": "ambersafe",
        "changes": ["models.ambersafe.beta: 0.3"],
    }
