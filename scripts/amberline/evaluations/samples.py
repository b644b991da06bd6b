"""Answers to prompts: a few lines to read beside the metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from amberline.core.manifests import read_manifest
from amberline.core.settings import Count, PositiveCount, ResultSettings
from amberline.data.conversations import Turn
from amberline.data.preferences import prompt_turns
from amberline.evaluations.base import Evaluation, EvaluationError
from amberline.templates.base import ROLES

if TYPE_CHECKING:
    from amberline.recipe.hardware import Hardware
    from amberline.training.ranks import Ranks


Prompt = tuple[Turn, ...]


class SamplesSettings(ResultSettings):
    """Settings of answers."""

    prompts: Count = Field(description="prompts that are asked, the first ones")
    tokens: PositiveCount = Field(description="tokens of each answer at most")


class Samples(Evaluation):
    """Greedy answers to prompts, in the template that the model's training used."""

    Settings = SamplesSettings
    reads = "prompts"
    one_process = True

    settings: SamplesSettings

    def measure(
        self,
        model: Path,
        data: Path,
        reference: Path | None,  # noqa: ARG002
        hardware: Hardware,  # noqa: ARG002
        ranks: Ranks,
    ) -> dict[str, Any]:
        """The template, and each prompt with its answer."""
        # A model that was trained on no template is asked bare prompts.
        template = read_manifest(model)["settings"].get("template", "none")
        prompts = [turns for turns in _prompts(data) if template != "none" or len(turns) == 1]
        prompts = prompts[: self.settings.prompts]
        try:
            answers = answer(model, prompts, template, self.settings.tokens, str(ranks.device))
        except Exception as error:  # transformers has many, for damaged files and templates
            found = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise EvaluationError(f"{model} cannot answer ({found}). Fix: make that model again") from None
        return {
            "tokens": self.settings.tokens,
            "template": template,
            "answers": [
                {"prompt": "\n\n".join(turn.text for turn in turns), "answer": made}
                for turns, made in zip(prompts, answers, strict=True)
            ],
        }


def _prompts(data: Path) -> list[Prompt]:
    try:
        return prompts_in(json.loads(data.read_text(encoding="utf-8")))
    except (ValueError, TypeError, LookupError) as error:
        raise EvaluationError(f"{data} is damaged ({error!r}): make that stage again") from None


def prompts_in(rows: Any) -> list[Prompt]:
    """Prompts of pairs, or the first questions of conversations with their system turns, each once."""
    if isinstance(rows, dict):
        return list(dict.fromkeys(prompt_turns(prompt, value) for prompt, value in rows.items()))
    starts = [row["conversations"][: 1 + (row["conversations"][0]["from"] == "system")] for row in rows]
    asked = [start for start in starts if start[-1]["from"] == "human"]
    return list(dict.fromkeys(tuple(Turn(turn["from"], turn["value"]) for turn in turns) for turns in asked))


def answer(folder: Path, prompts: list[Prompt], template: str, tokens: int, device: str) -> list[str]:
    """Greedy answers of a model to prompts, of `tokens` tokens at most, in the folder's own chat template.

    With the `template` none, prompts are single turns, and asked as bare texts. An answer ends where the folder's
    generation_config.json says.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading: a log cannot be drawn over
    # As its files have it, and as training read it: neither with a corrected pattern, nor by Mistral's own package.
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, fix_mistral_regex=False)
    # Code is there only where the recipe trusts it.
    trusted = any(folder.glob("*.py"))
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=trusted)
    model = model.to(device).eval()
    answers = []
    for prompt in prompts:
        if template != "none":
            chat = [{"role": ROLES[turn.speaker], "content": turn.text} for turn in prompt]
            inputs = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            # A training without a template saw bare prompts, without a first token.
            inputs = tokenizer(prompt[0].text, add_special_tokens=False, return_tensors="pt")
        inputs = inputs.to(device)
        with torch.inference_mode():
            made = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        answers.append(tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return answers


EVALUATION = Samples
