"""A template is added with one file: `plain.py`, put among the others, is trained on, exported and described."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from chat_oracle import kind_folder
from transformers import AutoTokenizer

from amberline.core.code import imported_files
from amberline.core.manifests import model_content, write_manifest
from amberline.data.tokens import open_tokens
from amberline.templates.registry import TemplateError, chat_templates, load_template, template_file, template_names
from programs import PROGRAMS, programs_with

ROWS = [{"id": "a", "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}]
SETTINGS = {"template": "plain", "loss_on": "answers", "mode": "lossless", "max_length": 100}
EXPORTED = """
import sys; from pathlib import Path
from amberline.text.chats import exported_chat; from amberline.text.tokenizers import load_tokenizer
jinja, ends = exported_chat(load_tokenizer(Path(sys.argv[1])), "plain")
Path(sys.argv[1], "chat_template.jinja").write_text(jinja); print(ends)
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """The programs, with `plain` among the templates."""
    return programs_with(Path(__file__).with_name("plain.py"), "templates", tmp_path)


def python(scripts: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(scripts)})


def test_one_file_among_the_others_is_enough(scripts: Path, tmp_path: Path) -> None:
    folder = kind_folder(tmp_path / "model", "olmo")
    files = list(folder.iterdir())
    write_manifest(folder, kind="model", files=files, inputs={}, settings={}, facts={}, digest=model_content(folder))
    rows = tmp_path / "rows.json"
    rows.write_text("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]")
    write_manifest(rows, kind="chunks", files=[rows], inputs={}, settings={}, facts={"rows": 1})
    made = {name: tmp_path / "made" / name for name in ("tokens", "funnel", "rejects")}
    options = {"rows": rows, "model": folder, "settings": json.dumps(SETTINGS), **made}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    done = python(scripts, scripts / "tokenize_conversations.py", *words)
    assert done.returncode == 0, done.stderr
    (row,) = open_tokens(made["tokens"])
    done = python(scripts, "-c", EXPORTED, folder)
    assert done.returncode == 0, done.stderr

    published = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    assert published.apply_chat_template(messages, return_dict=True)["input_ids"] == row["input_ids"]
    assert published.decode(row["input_ids"]) == "Q: Why?<|endoftext|>\nA:So.<|endoftext|>\n"
    learnt = [label for label in row["labels"] if label != -100]
    assert published.decode(learnt) == "So.<|endoftext|>"
    assert done.stdout == f"[{published.eos_token_id}]\n"


def test_templates_are_found_by_their_names() -> None:
    assert template_names() == ["chatml", "llama3", "none", "tokenizer", "vicuna", "zephyr"]
    assert chat_templates() == [name for name in template_names() if name != "none"]
    with pytest.raises(TemplateError, match="there is no template 'base'; there are: chatml"):
        load_template("base")


@pytest.mark.parametrize("program", ["tokenize_conversations.py", "tokenize_pairs.py", "export.py", "write_card.py"])
def test_the_code_of_a_program_does_not_hold_the_templates(program: str) -> None:
    """A change of one template reruns what renders with it: rules give its file beside the program."""
    files = set(imported_files(PROGRAMS / program))
    # FastChat's cut and masks are those of Vicuna, whatever a model's template is.
    fastchats = {template_file("vicuna")} if program == "tokenize_conversations.py" else set()
    assert {template_file(name) for name in template_names()} & files <= fastchats
