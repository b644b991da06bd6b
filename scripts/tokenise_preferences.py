"""Turn preference pairs into token ids: one row for every pair (DPO), one for every prompt's target (SFT)."""

import sys
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from amberline.core.funnel import Funnel, FunnelError
from amberline.core.manifests import ManifestError, verify, write_manifest
from amberline.core.parallel import WorkerLost
from amberline.core.pieces import work_on_pieces
from amberline.data.streams import BadFile
from amberline.data.tokens import PAIRS, SEQUENCES, token_files, write_tokens
from amberline.recipe.data import PreferenceTokens
from amberline.text.columns import length_facts
from amberline.text.tokenising_pairs import batches, read_prompts, tokenise_prompts
from amberline.text.tokenizers import TokenizerRefused


def main(
    *,
    pairs: Annotated[Path, typer.Option(help="pairs grouped by prompt: a JSON object")],
    model: Annotated[Path, typer.Option(help="Hugging Face folder with the tokenizer")],
    settings: Annotated[str, typer.Option(help="ambersafe.tokens of the configuration, as JSON")],
    processes: Annotated[int, typer.Option(min=1, help="processes that share the work")] = 1,
    sft_tokens: Annotated[Path, typer.Option(help="token folder of the prompts' targets to write")],
    pair_tokens: Annotated[Path, typer.Option(help="token folder of the pairs to write")],
    funnel: Annotated[Path, typer.Option(help="the account to write")],
    rejects: Annotated[Path, typer.Option(help="rejected and cut rows to write")],
) -> None:
    """Turn preference pairs into token ids."""
    account = Funnel("tokenise_preferences")
    lengths: dict[Path, Counter[int]] = {sft_tokens: Counter(), pair_tokens: Counter()}
    try:
        choices = PreferenceTokens.model_validate_json(settings)
        verify(pairs)
        verify(model)
        prompts = read_prompts(pairs)
        work = partial(tokenise_prompts, pairs.name, model, choices)
        pieces = work_on_pieces(work, batches(prompts), processes, rejects=rejects, total=len(prompts), unit="prompts")
        with write_tokens(sft_tokens, SEQUENCES) as targets_written, write_tokens(pair_tokens, PAIRS) as pairs_written:
            for made in pieces:
                targets_written.write_batch(made.targets)
                pairs_written.write_batch(made.pairs)
                account.merge(made.funnel)
                lengths[sft_tokens].update(made.target_lengths)
                lengths[pair_tokens].update(made.pair_lengths)
            account.close()
        account.write(funnel)
        for folder, kind in ((sft_tokens, "sft-tokens"), (pair_tokens, "pair-tokens")):
            write_manifest(
                folder,
                kind=kind,
                files=token_files(folder),
                beside=[funnel, rejects],
                inputs={"pairs": pairs, "model": model},
                settings=choices.model_dump(),
                facts=facts(lengths[folder], account),
            )
    except (ValidationError, ManifestError, BadFile, FunnelError, TokenizerRefused, WorkerLost) as error:
        sys.exit(f"tokenise_preferences: {error}")


def facts(lengths: Counter[int], account: Funnel) -> Mapping[str, Any]:
    """Counts for a manifest."""
    counts = account.to_json()
    return {
        "rows": lengths.total(),
        "tokens": sum(length * count for length, count in lengths.items()),
        "length": length_facts(lengths),
        "counts": counts["counts"],
        "notes": counts["notes"],
    }


if __name__ == "__main__":
    typer.run(main)
