"""Changed params in words."""

import json

from amberline.recipe.changes import told_changes


def as_json(**values) -> str:
    return json.dumps(values)


def test_a_changed_setting_is_told_by_its_name_and_both_values():
    before = [as_json(beta=0.1, schedule={"kind": "cosine", "warmup_steps": 10})]
    now = [as_json(beta=0.3, schedule={"kind": "cosine", "warmup_steps": 20})]
    assert told_changes(before, now) == ["beta: 0.1 -> 0.3", "schedule.warmup_steps: 10 -> 20"]


def test_settings_are_not_held_against_packages():
    before = [as_json(torch="2.12.0", numpy="2.0"), as_json(beta=0.1, seed=0)]
    now = [as_json(beta=0.1, seed=1), as_json(torch="2.13.0", numpy="2.0")]
    assert told_changes(before, now) == ["seed: 0 -> 1", "torch: 2.12.0 -> 2.13.0"]


def test_code_is_one_word_and_damage_is_its_fault():
    before, now = ["a" * 64, "made: 1"], ["b" * 64, "made: 2 (x.json is missing)"]
    assert told_changes(before, now) == ["code", "x.json is missing"]


def test_code_within_settings_is_one_word_too():
    before = [as_json(code="a" * 64, packages={"torch": "2.13.0"})]
    assert told_changes(before, [as_json(code="b" * 64, packages={"torch": "2.13.0"})]) == ["code"]


def test_settings_in_a_file_are_read_and_long_values_are_cut(tmp_path):
    files = [tmp_path / "before.json", tmp_path / "now.json"]
    for file, letter in zip(files, "ab", strict=True):
        file.write_text(as_json(title="AmberSafe", deviations=[letter * 400]))
    [told] = told_changes(*([str(file)] for file in files))
    assert told.startswith("deviations: ['aaa")
    assert len(told) < 120


def test_a_file_that_is_gone_and_a_plain_text_are_told_as_they_are(tmp_path):
    assert told_changes([], [str(tmp_path / "gone.json")])
    assert told_changes(["--precision float32"], ["--precision bfloat16"]) == ["--precision bfloat16"]
