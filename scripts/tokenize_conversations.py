"""Turn chunks of conversations into token ids, with the loss on the assistant's answers alone."""

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
from amberline.data.streams import work_pieces
from amberline.data.tokens import SEQUENCES, token_files, write_tokens
from amberline.recipe.data import ConversationTokens
from amberline.text.columns import token_facts
from amberline.text.failures import FAILURES
from amberline.text.tokenizing_conversations import tokenize_piece


def main(
    *,
    rows: Annotated[Path, typer.Option(help="chunks to tokenize: a JSON array")],
    model: Annotated[Path, typer.Option(help="Hugging Face folder with the tokenizer")],
    settings: Annotated[str, typer.Option(help="as JSON: ConversationTokens in scripts/amberline/recipe/data.py")],
    processes: Annotated[int, typer.Option(min=1, help="processes that share the work")] = 1,
    tokens: Annotated[Path, typer.Option(help="token folder to write")],
    funnel: Annotated[Path, typer.Option(help="the account to write")],
    rejects: Annotated[Path, typer.Option(help="rejected and cut rows to write")],
) -> None:
    """Turn chunks of conversations into token ids, with the loss on the assistant's answers alone."""
    with one_message("tokenize_conversations", *FAILURES):
        choices = ConversationTokens.model_validate_json(settings)
        total = verify(rows)["facts"].get("rows")
        verify(model)
        account = Funnel("tokenize")
        lengths: Counter[int] = Counter()
        loss_tokens = 0
        work = partial(tokenize_piece, rows, model, choices)
        items = work_pieces(rows)
        with write_tokens(tokens, SEQUENCES) as written:
            for made in work_on_pieces(work, items, processes, file=rows, rejects=rejects, total=total, unit="rows"):
                written.write_batch(made.batch)
                account.merge(made.funnel)
                lengths.update(made.lengths)
                loss_tokens += made.loss_tokens
            account.close()
        account.write(funnel)
        write_manifest(
            tokens,
            kind="conversation-tokens",
            files=token_files(tokens),
            beside=[funnel, rejects],
            inputs={"rows": rows, "model": model},
            settings=choices.model_dump(),
            facts=token_facts(lengths, account, loss_tokens=loss_tokens),
        )
    print(f"tokenize_conversations: {account.line('chunks')}", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
