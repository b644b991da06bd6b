"""Score preference pairs with the frozen reference model, once, so that DPO need not hold it in memory.

Start it by itself for one process, or with `torchrun --nproc-per-node N` for N.
"""

from pathlib import Path
from typing import Annotated

import typer

from amberline.core.manifests import ManifestError, verify, write_manifest
from amberline.data.tokens import LOGPS, BadTokens, check_tokens, open_tokens, token_files, write_tokens
from amberline.hub.model_names import ModelError
from amberline.model.files import read_config
from amberline.recipe.hardware import Hardware
from amberline.training.ranks import FirstRankFailed, init_ranks
from amberline.training.scoring import PAIR, ScoringError, load_frozen, score
from amberline.training.signals import ending_at_interrupt
from amberline.training.together import ending_together


@ending_at_interrupt("score_reference")
def main(
    *,
    model: Annotated[Path, typer.Option(help="Hugging Face folder of the reference")],
    tokens: Annotated[Path, typer.Option(help="token folder of preference pairs")],
    precision: Annotated[str, typer.Option(help="bfloat16 or float32: that of the DPO training")],
    hardware: Annotated[str, typer.Option(help="JSON of machine and layout, as under hardware in config.yaml")],
    reference: Annotated[Path, typer.Option(help="token folder of log-probabilities to write")],
    tf32: Annotated[
        bool, typer.Option(help="let float32 matrix products on CUDA use tf32, as the training does")
    ] = False,
) -> None:
    """Score preference pairs with the reference model."""
    if precision not in {"bfloat16", "float32"}:
        raise typer.BadParameter(f"found {precision!r}; allowed are bfloat16 and float32", param_hint="--precision")
    machine = Hardware.model_validate_json(hardware)
    ranks = init_ranks(machine.device, machine.cpus_per_rank)
    failures = (BadTokens, FirstRankFailed, ManifestError, ModelError, OSError, ScoringError)
    with ending_together("score_reference", ranks, *failures):
        ranks.from_first(lambda: _verify(model, tokens))
        pairs = open_tokens(tokens)
        frozen = load_frozen(model, machine, precision, ranks, tf32=tf32)
        logps = score(frozen, pairs, PAIR)
        if ranks.first:
            with write_tokens(reference, LOGPS) as writer:
                chosen, rejected = logps.T
                writer.write_columns({"id": pairs["id"][:], "chosen_logp": chosen, "rejected_logp": rejected})
            write_manifest(
                reference,
                kind="reference-logps",
                files=token_files(reference),
                # Weights, tokens and precision are the key: log-probabilities are used for nothing else.
                inputs={"model": model, "tokens": tokens},
                settings={"precision": precision, "tf32": tf32},
                facts={"pairs": len(pairs), "attention": frozen.attention},
            )
            print(f"score_reference: {len(pairs):,} pairs in, {len(logps):,} scored with {model.name}")


def _verify(model: Path, tokens: Path) -> None:
    """Raise ManifestError, ModelError or BadTokens for inputs that are not what they should be."""
    for folder in (model, tokens):
        verify(folder)
    check_tokens(tokens, read_config(model).vocab_size)


if __name__ == "__main__":
    typer.run(main)
