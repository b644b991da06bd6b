"""Let finished models answer test prompts: a few lines to read beside the metrics."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from amberline.core.files import whole_file
from amberline.core.manifests import ManifestError, read_manifest, verify, write_manifest
from amberline.recipe.evaluation import Samples


def answer(folder: Path, prompts: list[str], tokens: int) -> list[str]:
    """Greedy answers of a model to prompts, in the template that its training used."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device).eval()
    template = read_manifest(folder)["settings"]["template"]
    answers = []
    for prompt in prompts:
        if template == "vicuna":
            chat = [{"role": "user", "content": prompt}]
            inputs = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            # AmberSafe's training saw bare prompts, without a first token or a template.
            inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        inputs = inputs.to(device)
        with torch.inference_mode():
            made = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        answers.append(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return answers


def main(
    model: Annotated[list[Path], typer.Option(help="folder of an exported model; may be repeated")],
    prompts: Annotated[Path, typer.Option(help="safe pairs whose first prompts are asked")],
    settings: Annotated[str, typer.Option(help="how many prompts and tokens, as JSON")],
    output: Annotated[Path, typer.Option(help="JSON file to write")],
) -> None:
    """Let finished models answer test prompts."""
    wanted = Samples.model_validate_json(settings)
    try:
        for folder in model:
            verify(folder)
        verify(prompts)
    except ManifestError as error:
        sys.exit(f"sample_answers: {error}")
    asked = list(json.loads(prompts.read_text(encoding="utf-8")))[: wanted.prompts]
    answers = {folder.name: answer(folder, asked, wanted.tokens) for folder in model}
    page = {
        "tokens": wanted.tokens,
        "templates": {folder.name: read_manifest(folder)["settings"]["template"] for folder in model},
        "answers": [
            {"prompt": prompt, "answers": {name: answers[name][index] for name in answers}}
            for index, prompt in enumerate(asked)
        ],
    }
    with whole_file(output) as partial:
        partial.write_text(json.dumps(page, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    inputs = {"prompts": prompts, **{folder.name: folder for folder in model}}
    write_manifest(output, kind="answers", files=[output], inputs=inputs, settings=wanted.model_dump(), facts={})


if __name__ == "__main__":
    typer.run(main)
