"""Measure a finished model with any evaluation of scripts/amberline/evaluations, on data that it never saw.

Start it by itself for one process, or with `torchrun --nproc-per-node N --` in front for N.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from amberline.core.files import whole_file
from amberline.core.manifests import ManifestError, verify, write_manifest
from amberline.data.tokens import BadTokens, check_tokens
from amberline.evaluations.base import Arithmetic, Evaluation, EvaluationError
from amberline.evaluations.registry import evaluation_names, load_evaluation
from amberline.hub.model_names import ModelError
from amberline.model.files import read_config
from amberline.recipe.hardware import Hardware
from amberline.training.ranks import FirstRankFailed, init_ranks
from amberline.training.references import unlike
from amberline.training.scoring import ScoringError
from amberline.training.signals import ending_at_interrupt
from amberline.training.together import ending_together


@ending_at_interrupt("evaluate")
def main(
    *,
    evaluation: Annotated[str, typer.Option(help=f"one of: {', '.join(evaluation_names())}")],
    model: Annotated[Path, typer.Option(help="Hugging Face folder of the model")],
    data: Annotated[Path, typer.Option(help="token folder, or file of pairs by prompt, that it is measured on")],
    reference: Annotated[Path | None, typer.Option(help="a reference's log-probabilities of those pairs")] = None,
    settings: Annotated[str, typer.Option(help="JSON of the settings that determine the metrics")],
    hardware: Annotated[str, typer.Option(help="JSON of machine and layout, as under hardware in config.yaml")],
    output: Annotated[Path, typer.Option(help="JSON file to write, with its manifest")],
) -> None:
    """Measure a finished model on data that it never saw."""
    if evaluation not in evaluation_names():
        allowed = ", ".join(evaluation_names())
        raise typer.BadParameter(f"found {evaluation!r}; allowed: {allowed}", param_hint="--evaluation")
    kind = load_evaluation(evaluation)
    if (reference is not None) != kind.needs_reference:
        fault = f"{evaluation} {'needs it' if kind.needs_reference else 'has no use for it'}"
        raise typer.BadParameter(fault, param_hint="--reference")
    asked = kind(kind.Settings.model_validate_json(settings))
    machine = Hardware.model_validate_json(hardware)
    inputs = {"model": model, "data": data, **({"reference": reference} if reference else {})}
    ranks = init_ranks(machine.device, machine.cpus_per_rank)
    failures = (BadTokens, EvaluationError, FirstRankFailed, ManifestError, ModelError, OSError, ScoringError)
    with ending_together("evaluate", ranks, *failures):
        if kind.one_process and ranks.world > 1:
            raise EvaluationError(f"{evaluation} is for one process: start it without torchrun")
        ranks.from_first(lambda: _verify(inputs, asked))
        metrics = asked.measure(model, data, reference, machine, ranks)
        if ranks.first:
            _write(output, {"evaluation": evaluation, "model": model.name, **metrics})
            found = asked.settings.model_dump(mode="json")
            facts = {"evaluation": evaluation}
            write_manifest(output, kind="evaluation", files=[output], inputs=inputs, settings=found, facts=facts)
            print(f"evaluate: {evaluation} of {model.name}: {_told(metrics)}")


def _verify(inputs: dict[str, Path], asked: Evaluation) -> None:
    """Raise ManifestError, ModelError, BadTokens or EvaluationError for inputs that are not what they should be."""
    manifests = {name: verify(path) for name, path in inputs.items()}
    if asked.reads != "prompts":
        check_tokens(inputs["data"], read_config(inputs["model"]).vocab_size)
    if "reference" not in manifests:
        return
    settings = asked.settings
    assert isinstance(settings, Arithmetic), f"{type(asked).__name__} needs a reference: its settings are Arithmetic"
    arithmetic = {"precision": settings.precision, "tf32": settings.tf32}
    if found := unlike(manifests["reference"], tokens=manifests["data"], **arithmetic):
        raise EvaluationError(
            f"{inputs['reference']} was computed with {found} than this evaluation's: it is not used; score the "
            "reference again"
        )


def _told(metrics: dict[str, Any]) -> str:
    """Metrics in one line; of lists their lengths."""
    lengths = {name: len(value) for name, value in metrics.items() if isinstance(value, list)}
    told = {name: f"{value:.6g}" for name, value in metrics.items() if isinstance(value, float)}
    return ", ".join(f"{name} {value}" for name, value in (metrics | lengths | told).items())


def _write(output: Path, metrics: dict[str, Any]) -> None:
    with whole_file(output) as partial:
        partial.write_text(json.dumps(metrics, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
