"""What runs again after a change: exactly the stages that it can affect."""

import os
from collections import Counter

import pytest

EVALUATION = Counter(evaluate=4, sample_answers=1, write_report=1, all=1)
FROM_DPO = Counter(train_dpo=1, export_ambersafe=1, evaluate=1, sample_answers=1, write_report=1, all=1)
FROM_REFERENCE = FROM_DPO | Counter(score_reference=2) | EVALUATION
FROM_SFT = FROM_REFERENCE | Counter(finetune_preferred=1, export_ambersafe_sft=1)
FROM_AMBERCHAT = FROM_SFT | Counter(finetune_amberchat=1, export_amberchat=1)
FROM_PREFERENCE_TOKENS = FROM_SFT | Counter(tokenise_preferences=2)
FROM_PAIRS = FROM_PREFERENCE_TOKENS | Counter(select_safe_pairs=2)
FROM_CHUNKS = FROM_AMBERCHAT | Counter(tokenise_conversations=2)
FROM_SPLIT = FROM_CHUNKS | Counter(split=2)
FROM_MIX = FROM_SPLIT | Counter(mix=1)
EVERYTHING_FROM_SHAREGPT = FROM_MIX | FROM_PREFERENCE_TOKENS | Counter(acquire=1, make_tiny_base=1)
EVERYTHING = FROM_MIX | FROM_PAIRS | Counter(acquire=4, make_tiny_base=1)

DEMO = "demo/config.yaml"


def swap_decays(project):
    """Two values of one stage change places: the set of values stays the same."""
    project.edit("config.yaml", "      beta1: 0.9 ", "      beta1: 0.999 ")
    project.edit("config.yaml", "      beta2: 0.999 ", "      beta2: 0.9 ")


def swap_keys(project):
    project.edit(
        DEMO,
        "    max_length: 128\n    max_prompt_length: 64\n",
        "    max_prompt_length: 64\n    max_length: 128\n",
    )


def older_raw_file(project):
    """Other content, and a modification time long before that of everything made from it."""
    path = project.root / "demo/raw/sharegpt.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("a rainy walk", "a sunny walk"), encoding="utf-8")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    accept_raw_file(project, "sharegpt", path)


def changed_raw_file(project):
    path = project.root / "demo/raw/evol_instruct.json"
    path.write_text(path.read_text(encoding="utf-8").replace("a museum", "a castle"), encoding="utf-8")
    accept_raw_file(project, "evol_instruct", path)


def accept_raw_file(project, name, path):
    """Take the file as it is: the configuration no longer says what it must be."""
    overlay = project.root / DEMO
    lines, inside = [], False
    for line in overlay.read_text(encoding="utf-8").splitlines():
        inside = line == f"  {name}:" or (inside and line.startswith("    "))
        lines.append(
            f"    {line.split(':')[0].strip()}: null" if inside and ("sha256" in line or "bytes" in line) else line
        )
    overlay.write_text("\n".join(lines) + "\n", encoding="utf-8")


def append(file, text):
    def edit(project):
        path = project.root / file
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")

    return edit


def replace(file, old, new):
    return lambda project: project.edit(file, old, new)


CODE = "\n\ndef added_by_a_test() -> None:\n    pass\n"

EDITS = {
    "nothing": (lambda project: None, Counter()),
    "every file touched": (lambda project: project.touch_everything(), Counter()),
    "a comment in config.yaml": (append("config.yaml", "# a comment\n"), Counter()),
    "the order of keys": (swap_keys, Counter()),
    "a number written another way": (replace(DEMO, "5.0e-4", "5e-4"), Counter()),
    "hardware of a stage": (replace(DEMO, "micro_batch_tokens: 4096", "micro_batch_tokens: 2048"), Counter()),
    "processes of the data stages": (replace(DEMO, "  processes: 2", "  processes: 1"), Counter()),
    "a folder on nodes for tokens": (replace("slurm/site.yaml", "scratch: null", "scratch: $TMPDIR"), Counter()),
    "mix: seed": (
        replace("config.yaml", "    seed: 0  # seed of the shuffle", "    seed: 1  # seed of the shuffle"),
        FROM_MIX,
    ),
    "split: length": (replace(DEMO, "  split:\n    max_length: 256", "  split:\n    max_length: 200"), FROM_SPLIT),
    "conversation tokens: mode": (
        replace(
            "config.yaml",
            "  tokens:  # chunks as token ids and labels\n    mode: fastchat",
            "  tokens:  # chunks as token ids and labels\n    mode: lossless",
        ),
        FROM_CHUNKS,
    ),
    "amberchat: learning rate": (replace(DEMO, "learning_rate: 3.0e-3", "learning_rate: 2.0e-3"), FROM_AMBERCHAT),
    "amberchat: two values swapped": (swap_decays, FROM_AMBERCHAT),
    "preference tokens: length": (replace(DEMO, "max_length: 128", "max_length: 120"), FROM_PREFERENCE_TOKENS),
    "sft: learning rate": (replace(DEMO, "learning_rate: 5.0e-4", "learning_rate: 6.0e-5"), FROM_SFT),
    "dpo: beta": (replace("config.yaml", "    beta: 0.1 ", "    beta: 0.2 "), FROM_DPO | EVALUATION),
    "dpo: learning rate": (replace(DEMO, "learning_rate: 1.0e-4", "learning_rate: 2.0e-4"), FROM_DPO),
    "a variant of dpo": (
        replace("config.yaml", "  variants: {} ", "  variants: {mild: {beta: 0.5}} "),
        Counter(train_dpo=1, export_ambersafe=1, evaluate=1, write_report=1, all=1),
    ),
    "a library file used by DPO alone": (append("scripts/amberline/training/objectives/dpo.py", CODE), FROM_DPO),
    "a library file used by every training": (append("scripts/amberline/training/loop.py", CODE), FROM_AMBERCHAT),
    "a library file used by everything": (append("scripts/amberline/records/files.py", CODE), EVERYTHING),
    "a program": (append("scripts/select_safe_pairs.py", CODE), FROM_PAIRS),
    "the report's template": (
        append("scripts/amberline/report/report.html.jinja", "<!-- -->\n"),
        Counter(write_report=1, all=1),
    ),
    "the lock": (append("envs/cpu.lock", "# another lock\n"), EVERYTHING),
    "a raw file": (changed_raw_file, EVERYTHING_FROM_SHAREGPT),
    "a raw file, by an older one": (older_raw_file, EVERYTHING_FROM_SHAREGPT),
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", EDITS)
def test_an_edit_reruns_what_it_can_affect(finished, tmp_path, name):
    edit, expected = EDITS[name]
    project = finished.copy(tmp_path / "project")
    edit(project)
    assert project.planned() == expected


@pytest.mark.timeout(1800)
def test_results_copied_into_a_fresh_checkout_are_taken_over_with_one_command(finished, fresh, tmp_path):
    project = fresh.copy(tmp_path / "project")
    finished.copy(tmp_path / "finished")
    (tmp_path / "finished/results").rename(project.root / "results")
    project.touch_everything()
    project.snakemake("--configfile", DEMO, "--cores", "2", "--touch")
    assert project.planned() == Counter()
