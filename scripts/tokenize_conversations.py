"""Turn chunks of conversations into token ids, with the loss on the assistant's answers alone."""

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from amberline.core.ending import one_message
from amberline.core.funnel import Funnel, FunnelError, NothingLeft
from amberline.core.manifests import ManifestError, verify, write_manifest
from amberline.core.parallel import WorkerLost
from amberline.core.pieces import work_on_pieces
from amberline.data.streams import BadFile, pieces
from amberline.data.tokens import SEQUENCES, token_files, write_tokens
from amberline.recipe.data import ConversationTokens
from amberline.text.columns import length_facts
from amberline.text.tokenizers import TokenizerRefused
from amberline.text.tokenizing_conversations import tokenize_piece

PIECE_BYTES = 2**21  # of the file that a process works on at a time


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
    with one_message(
        "tokenize_conversations",
        ValidationError,
        ManifestError,
        BadFile,
        FunnelError,
        NothingLeft,
        TokenizerRefused,
        WorkerLost,
    ):
        choices = ConversationTokens.model_validate_json(settings)
        total = verify(rows)["facts"].get("rows")
        verify(model)
        account = Funnel("tokenize")
        lengths: Counter[int] = Counter()
        loss_tokens = 0
        work = partial(tokenize_piece, rows, model, choices)
        items = pieces(rows, rows.stat().st_size // PIECE_BYTES + 1)
        with write_tokens(tokens, SEQUENCES) as written:
            for made in work_on_pieces(work, items, processes, file=rows, rejects=rejects, total=total, unit="rows"):
                written.write_batch(made.batch)
                account.merge(made.funnel)
                lengths.update(made.lengths)
                loss_tokens += made.loss_tokens
            account.close()
        account.write(funnel)
        counts = account.to_json()
        write_manifest(
            tokens,
            kind="conversation-tokens",
            files=token_files(tokens),
            beside=[funnel, rejects],
            inputs={"rows": rows, "model": model},
            settings=choices.model_dump(),
            facts={
                "rows": written.rows,
                "tokens": sum(length * count for length, count in lengths.items()),
                "loss_tokens": loss_tokens,
                "length": length_facts(lengths),
                "counts": counts["counts"],
                "notes": counts["notes"],
            },
        )
    print(f"tokenize_conversations: {account.line('chunks')}", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
