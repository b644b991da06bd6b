"""The page over made-up results: it shows any recipe, and knows no node by its name."""

import html
import re
from pathlib import Path

import pytest

from amberline.report.page import build_page
from report.made_up import TEN_MODELS, node_names, page_of, recipe_of, settings_of, write_curve, write_results

SCRIPTS = Path(__file__).parents[2] / "scripts"
FILES = [
    *(SCRIPTS / "amberline/report").glob("*.*"),
    *(SCRIPTS / name for name in ("write_report.py", "write_card.py")),
    *(SCRIPTS / "amberline/evaluations").glob("*.py"),
]
# Names of the published recipe's nodes that are words of their own.
WORDS = {"base", "heldout", "rewards", "answers", "Amber"}


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """The page of a recipe with ten models."""
    return page_of(recipe_of(TEN_MODELS), tmp_path_factory.mktemp("results"))


def text_of(page):
    """What a reader sees, without plots; a line an element."""
    page = re.sub(r"<(svg|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "\n", page))


def rows_of(page, evaluation):
    """The cells of an evaluation's table, by the title of the model."""
    table = page.split(f'id="evaluation-{evaluation}"')[1].split("</table>")[0]
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr.*?</tr>", table)]
    cells = [[html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in row] for row in rows]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize("file", sorted(FILES), ids=lambda file: file.name)
def test_no_node_is_known_by_its_name(file):
    found = [
        name
        for name in node_names()
        if name not in WORDS and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", file.read_text(encoding="utf-8"))
    ]
    # Formats of raw files and the address of a paper are no nodes.
    assert not found


def test_every_account_has_a_title_made_of_its_stage_and_its_node(ten):
    for title in (
        "evol-mix: mix of sharegpt and evol_instruct",
        "evol-mix-split: chunks of evol-mix",
        "evol-mix-split-heldout: chunks of what is held out of evol-mix",
        "safe-pairs-train: pairs of pku_train",
        "evol-mix-split: tokens",
        "safe-pairs-train: tokens of the chosen responses",
        "safe-pairs-test: tokens",
    ):
        assert f"\n{title}\n" in text_of(ten)
    assert "too long: 40; empty: 5" in ten


def test_tokens_that_models_share_say_who_reads_them(ten):
    text = text_of(ten)
    assert "no template · at most 512 tokens · trained on: AmberSafe, SFT only; again\n" in text
    assert "trained on: AmberSafe; Safe 1.5; weak; direct; best; further\n" in text
    assert "measured on: rewards\n" in text


def test_ten_models_and_every_evaluation_are_on_the_page(ten):
    for evaluation in ("heldout", "rewards"):
        assert len(rows_of(ten, evaluation)) == 1 + 10
    assert rows_of(ten, "heldout")["Safe 1.5"] == ["5.25", "1,121"]
    # Nine trained models, of which two are of one training.
    curves = ten.split('id="training"')[1].split("<h2")[0]
    assert len(re.findall("<h3>", curves)) == 8
    assert "This training made best, too." in curves
    assert "Objective dpo, started from AmberSafe, SFT only, on safe-pairs-train" in curves


def test_nothing_is_written_as_python_has_it(ten):
    assert not re.search(r"\b(None|nan|NaN|inf|True|False)\b", text_of(ten))
    assert "src=" not in ten


def test_rewards_have_one_beta_and_one_reference_and_other_betas_beside_them(ten):
    assert "The reference of all of them is “AmberSafe, SFT only”, with β = 0.1" in ten
    rows = rows_of(ten, "rewards")
    assert rows["model"][:-1] == ["reward accuracy", "reward margin", "chosen more likely", "pairs"]
    assert rows["model"][-1] == "reward margin at its own β"
    # Margins are linear in beta.
    assert rows["Safe 1.5"] == ["0.812", "2.00", "0.750", "95", "10.00 (β = 0.5)"]
    assert rows["weak"][-1] == "1.00 (β = 0.05)"
    assert rows["AmberSafe"][-1] == "–"
    # Its training had another reference.
    assert rows["direct not from the reference"][-1] == "–"


def test_the_reference_says_so(ten):
    assert rows_of(ten, "rewards")["AmberSafe, SFT only reference"][:2] == ["0.500", "0.00"]
    assert "“AmberSafe, SFT only” is the reference itself: reward accuracy 0.5 and reward margin 0 by definition" in ten


def test_models_that_were_not_trained_from_the_reference_say_so(ten):
    marked = {title.split(" not from")[0] for title in rows_of(ten, "rewards") if "not from the reference" in title}
    assert marked == {"Amber", "AmberChat", "direct", "again"}
    assert "their rewards are relative to it all the same" in ten


def test_a_tile_shows_the_last_model_of_the_dataset_and_its_start(ten):
    tiles = re.sub(r"\s+", " ", text_of(ten.split('class="tiles"')[1].split("<h2")[0]))
    assert "AmberChat, perplexity 2.25 it started from Amber: 1.25" in tiles
    assert "further, reward accuracy 0.8125 it started from AmberSafe: 0.8125" in tiles


def test_without_data_to_measure_on_the_page_says_so(tmp_path):
    recipe = recipe_of({"evaluations": {"rewards": None, "answers": None}})
    nothing = {"perplexity": None, "perplexity_tokens": 0}
    page = page_of(recipe, tmp_path, figures={"heldout": dict.fromkeys(recipe.nodes.models, nothing)})
    assert "There was nothing to measure on: there are no held-out conversations of evol-mix." in page
    assert rows_of(page, "heldout")["AmberChat"] == ["–", "0"]
    assert "there was nothing to measure on" in page.split("<h2")[0]
    assert "Sample answers" not in page


def test_a_recipe_without_models_or_evaluations_has_a_page(tmp_path):
    nothing = dict.fromkeys(("heldout", "rewards", "answers"))
    models = dict.fromkeys(("amberchat", "ambersafe-sft", "ambersafe"))
    page = page_of(recipe_of({"evaluations": nothing, "models": models}), tmp_path)
    assert 'id="data"' in page
    assert 'id="training"' not in page
    assert 'id="evaluation"' not in page


def test_samples_stand_side_by_side(ten):
    samples = text_of(ten.split('id="samples"')[1].split("<h2")[0])
    assert samples.count("Question 1?") == 1
    assert "AmberChat says 1" in samples
    assert "AmberSafe says 1" in samples


def test_methods_are_sentences_of_the_settings(ten):
    methods = text_of(ten.split('id="methods"')[1].split("<h2")[0])
    assert "Conversations of sharegpt and evol_instruct, shuffled with seed 0; none is held out." in methods
    assert "cut into chunks of at most 2,048 tokens of “Amber” (fastchat mode)." in methods
    assert (
        "Trained from “AmberSafe, SFT only” with the objective dpo on the pairs of safe-pairs, as bare text" in methods
    )
    assert "Settings of the objective: loss sigmoid, beta 0.5, label smoothing 0, reference free no." in methods
    assert "Exported as “best”: the checkpoint with the least held-out loss, weights in float32." in methods


def test_methods_tell_how_much_of_a_source_is_taken(tmp_path):
    some = {"take": {"sharegpt": 1000}, "fraction": {"evol_instruct": 0.25}, "repeat": {"sharegpt": 2}}
    page = page_of(recipe_of({"datasets": {"evol-mix": some}}), tmp_path)
    sources = "sharegpt (at most 1,000 rows, each 2 times) and evol_instruct (0.25 of the rows)"
    assert f"Conversations of {sources}, shuffled with seed 0" in text_of(page)


def test_metrics_that_are_not_known_get_a_panel(tmp_path):
    settings = settings_of(recipe_of())
    write_results(tmp_path, settings, {})
    write_curve(tmp_path / settings["trainings"][0]["metrics"], preferences=False, odd_ratio=0.5)
    page = build_page(tmp_path, settings, "", {"jobs": [], "missing": None}, commit=None, machine="a machine")
    assert "odd ratio" in page


def test_a_source_whose_name_begins_like_another_has_its_own_digest(tmp_path):
    recipe = recipe_of({"sources": {"sharegpt.json": {"like": "sharegpt"}}})
    page = page_of(recipe, tmp_path)
    assert page.count("5" * 16) == 5


def test_a_licence_that_is_not_known_is_not_stated(tmp_path):
    page = page_of(recipe_of({"sources": {"evol_instruct": {"licence": None}}}), tmp_path)
    assert page.count("not stated") == 1


def test_deviations_and_jobs(tmp_path):
    deviations = {"models.x.texts": {"published": None, "here": ["a", "b"]}}
    job = {"stage": "train x.v1", "job": "17", "state": "OUT_OF_MEMORY", "seconds": 3725}
    job |= dict.fromkeys(("cpu_efficiency", "peak_memory", "asked_memory", "nodes", "gpus"))
    page = page_of(recipe_of(), tmp_path, deviations=deviations, jobs={"jobs": [job], "missing": None})
    assert "<td><code>models.x.texts</code></td><td>–</td><td>a, b</td>" in page
    assert (
        '<td class="name">train x.v1</td><td class="n">17</td><td>out of memory</td><td class="n">1:02:05</td>' in page
    )
    assert not re.search(r"\bNone\b", page)


def test_the_page_says_what_the_run_is_and_links_the_files_of_its_figures(tmp_path):
    tiny = {"vocabulary": 1024, "hidden_size": 64, "intermediate_size": 176, "layers": 2, "heads": 4}
    base = {"tiny": {**tiny, "context": 2048, "seed": 0, "architecture": "llama"}, "texts": ["sharegpt"]}
    recipe = recipe_of({"models": {"base": base}})
    page = page_of(recipe, tmp_path)
    assert "<b>Not comparable to published figures:</b> the models start from a stand-in of 231,744 parameters" in page
    assert "Written with commit <code>v1.0-3-g0123456789ab</code>, on a machine." in page
    links = set(re.findall(r'href="\.\./([^"]+)"', page))
    assert {"training/ambersafe/run.json", "training/ambersafe/metrics.jsonl", "funnels/mix/evol-mix.json"} < links
    assert "evaluations/rewards/ambersafe.json" in links
    missing = [link for link in links if not (tmp_path / link).exists() and not link.endswith("run.json")]
    assert missing == []
    assert "Not comparable" not in page_of(recipe_of(), tmp_path)


def test_the_same_results_give_the_same_bytes(tmp_path):
    recipe = recipe_of({"evaluations": {"answers": None}})
    assert page_of(recipe, tmp_path / "a") == page_of(recipe, tmp_path / "b")
