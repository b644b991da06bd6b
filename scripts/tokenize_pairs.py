"""Turn preference pairs into token ids: a row for every pair, or for every prompt's target (supervised finetuning)."""

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from amberline.core.ending import one_message
from amberline.core.funnel import Funnel
from amberline.core.manifests import verify, write_manifest
from amberline.core.pieces import work_on_pieces
from amberline.data.tokens import token_files, write_tokens
from amberline.recipe.data import PreferenceTokens
from amberline.text.columns import token_facts
from amberline.text.failures import FAILURES
from amberline.text.tokenizing_pairs import batches, check_turns, read_prompts, schema_of, tokenize_prompts, unit_of


def main(
    *,
    rows: Annotated[Path, typer.Option(help="pairs grouped by prompt: a JSON object")],
    model: Annotated[Path, typer.Option(help="Hugging Face folder with the tokenizer")],
    settings: Annotated[str, typer.Option(help="as JSON: PreferenceTokens in scripts/amberline/recipe/data.py")],
    processes: Annotated[int, typer.Option(min=1, help="processes that share the work")] = 1,
    tokens: Annotated[Path, typer.Option(help="token folder to write")],
    funnel: Annotated[Path, typer.Option(help="the account to write")],
    rejects: Annotated[Path, typer.Option(help="rejected and cut rows to write")],
) -> None:
    """Turn preference pairs into token ids: a row for every pair, or for every prompt's target."""
    account = Funnel("tokenize")
    lengths: Counter[int] = Counter()
    with one_message("tokenize_pairs", *FAILURES):
        choices = PreferenceTokens.model_validate_json(settings)
        verify(rows)
        verify(model)
        prompts = read_prompts(rows)
        check_turns(rows, prompts, choices.template)
        work = partial(tokenize_prompts, rows.name, model, choices)
        pieces = work_on_pieces(
            work, batches(prompts), processes, file=rows, rejects=rejects, total=len(prompts), unit="prompts"
        )
        with write_tokens(tokens, schema_of(choices)) as written:
            for made in pieces:
                written.write_batch(made.batch)
                account.merge(made.funnel)
                lengths.update(made.lengths)
            account.close()
        account.write(funnel)
        write_manifest(
            tokens,
            kind="target-tokens" if choices.responses == "chosen" else "pair-tokens",
            files=token_files(tokens),
            beside=[funnel, rejects],
            inputs={"rows": rows, "model": model},
            settings=choices.model_dump(),
            facts=token_facts(lengths, account),
        )
    print(f"tokenize_pairs: {account.line(unit_of(choices))}", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
