"""Variants on the finished demo: exactly what must run is planned, and one is trained."""

import json

import pytest

from dag.conftest import DEMO

pytestmark = pytest.mark.timeout(1800)

EVALUATIONS = ("heldout", "rewards", "answers")


def variants(**overlays) -> dict:
    return {"variants": overlays}


def beta(value: float) -> dict:
    return {"models": {"ambersafe": {"beta": value}}}


def model_jobs(model: str, evaluated=()) -> set[str]:
    """Of one model: trained, exported, described, and measured by some evaluations."""
    return {f"{rule} {model}" for rule in ("train", "export", "write_card")} | {
        f"evaluate {evaluation} {model}" for evaluation in evaluated
    }


def line(variant: str, evaluations: str = "") -> set[str]:
    """All models that are trained, of a variant, with scores of its reference."""
    chat, sft, safe = (f"{name}@{variant}" for name in ("amberchat", "ambersafe-sft", "ambersafe"))
    rewards, heldout = f"rewards@{variant}", f"heldout{evaluations}"
    return (
        model_jobs(chat, (heldout, rewards, "answers", f"chat{evaluations}"))
        | model_jobs(sft, (heldout, rewards))
        | model_jobs(safe, (heldout, rewards, "answers"))
        | {f"score_reference {sft}-on-safe-pairs-{part}-float32-tf32" for part in ("train", "test")}
        | {f"evaluate {rewards} base"}
    )


BETAS = variants(b2=beta(0.2), b5=beta(0.5), b9=beta(0.9))
SEEDS = variants(s1={"models": {"amberchat": {"seed": 1}}}, s2={"models": {"amberchat": {"seed": 2}}})
LOSSLESS = variants(lossless={"datasets": {"evol-mix-split": {"mode": "lossless"}}})
VICUNA = variants(vicuna={"models": {"ambersafe-sft": {"template": "vicuna"}, "ambersafe": {"template": "vicuna"}}})

PAGE = {"report", "all", "evaluation"}
OF_BETAS = {job for name in ("b2", "b5", "b9") for job in model_jobs(f"ambersafe@{name}", EVALUATIONS)}
OF_SEEDS = line("s1") | line("s2")
OF_LOSSLESS = (
    line("lossless", "@lossless")
    | {f"chunk evol-mix-split@lossless{part}" for part in ("", " heldout")}
    | {f"tokenize evol-mix-split@lossless{part}" for part in ("", "-heldout")}
    | {"evaluate heldout@lossless base"}
)
OF_VICUNA = (
    model_jobs("ambersafe-sft@vicuna", ("heldout", "rewards@vicuna"))
    | model_jobs("ambersafe@vicuna", ("heldout", "rewards@vicuna", "answers"))
    | {f"evaluate rewards@vicuna {name}" for name in ("base", "amberchat")}
    | {f"score_reference ambersafe-sft@vicuna-on-safe-pairs-{part}-float32-tf32" for part in ("train", "test")}
    | {f"tokenize safe-pairs-{part}{of}" for part in ("train", "test") for of in ("", "-chosen")}
)

CASES = {
    "three betas": (BETAS, OF_BETAS),
    "two seeds of the chat model": (SEEDS, OF_SEEDS),
    "a lossless chat model": (LOSSLESS, OF_LOSSLESS),
    "another template for the preference stages": (VICUNA, OF_VICUNA),
    "all at once": (
        variants(
            **{name: each for case in (BETAS, SEEDS, LOSSLESS, VICUNA) for name, each in case["variants"].items()}
        ),
        OF_BETAS | OF_SEEDS | OF_LOSSLESS | OF_VICUNA,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_variants_plan_what_must_run_and_nothing_else(finished, case):
    overlay, expected = CASES[case]
    assert finished.planned(on_top=overlay) - PAGE == expected


def test_each_variant_is_told_in_one_line_before_anything_starts(finished, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(variants(b2=beta(0.2), same=beta(0.2))))
    printed = finished.look("-n", "--configfile", "demo/config.yaml", str(file), "--cores", "2")
    assert "variant b2 (models.ambersafe.beta: 0.2): adds ambersafe@b2\n" in printed
    assert "variant same (models.ambersafe.beta: 0.2): adds no node; ambersafe@same is ambersafe@b2\n" in printed
    target = ("--configfile", "demo/config.yaml", str(file), "--cores", "2", "--", "ambersafe@same")
    assert "rule ambersafe@same:" in finished.look("-n", *target)


def test_three_betas_are_trained_compared_and_removed(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    file = project.root / "mine.yaml"
    file.write_text(json.dumps(BETAS))
    project.snakemake("--configfile", "demo/config.yaml", "mine.yaml", "--cores", "2", "--quiet", "rules")
    results = project.root / "results/demo"
    page = (results / "report/index.html").read_text(encoding="utf-8")
    margins = {}
    for name in ("ambersafe", "ambersafe@b2", "ambersafe@b5", "ambersafe@b9"):
        assert (results / f"models/{name}/model.safetensors").exists()
        margins[name] = json.loads((results / f"evaluations/rewards/{name}.json").read_text())["rewards/margins"]
        assert name in page
    # At one stated beta a stronger pull towards the reference leaves a smaller margin.
    assert margins["ambersafe"] > margins["ambersafe@b2"] > margins["ambersafe@b5"] > margins["ambersafe@b9"] > 0

    assert project.planned() == {"report", "all"}
    printed = project.snakemake(*DEMO, "--quiet", "rules")
    assert "results/demo holds 3 models that are of no node of this recipe, such as ambersafe@b2: they stay" in printed
    assert (results / "models/ambersafe@b2/model.safetensors").exists()
    assert "ambersafe@b2" not in (results / "report/index.html").read_text(encoding="utf-8")
