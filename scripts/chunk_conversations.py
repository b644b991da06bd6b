"""Cut long conversations into chunks that fit the context."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from amberline.core.ending import one_message
from amberline.core.files import whole_file
from amberline.core.funnel import Funnel
from amberline.core.manifests import verify, write_manifest
from amberline.core.pieces import work_on_pieces
from amberline.data.row_sources import BySource, read_sources
from amberline.data.streams import work_pieces, write_array
from amberline.recipe.data import Chunk
from amberline.text.chunk_pieces import chunk_piece, modes_of
from amberline.text.failures import FAILURES


def main(
    *,
    conversations: Annotated[Path, typer.Option(help="conversations to cut: a JSON array")],
    model: Annotated[Path, typer.Option(help="Hugging Face folder with the tokenizer")],
    settings: Annotated[str, typer.Option(help="as JSON: Chunk in scripts/amberline/recipe/data.py")],
    processes: Annotated[int, typer.Option(min=1, help="processes that share the work")] = 1,
    chunks: Annotated[Path, typer.Option(help="chunks to write")],
    funnel: Annotated[Path, typer.Option(help="the account to write")],
    rejects: Annotated[Path, typer.Option(help="lost turns and rows to write")],
    comparison: Annotated[Path, typer.Option(help="accounts of the modes to write, side by side")],
) -> None:
    """Cut long conversations into chunks that fit the context."""
    with one_message("chunk_conversations", *FAILURES):
        choices = Chunk.model_validate_json(settings)
        described = verify(conversations)
        rows = described["facts"].get("rows")
        by_source = BySource(conversations, list(described["inputs"]), read_sources(conversations))
        verify(model)
        funnels = {mode: Funnel("chunk") for mode in modes_of(choices)}
        work = partial(chunk_piece, conversations, model, choices)
        items = work_pieces(conversations)
        with write_array(chunks) as written:
            for made in work_on_pieces(
                work, items, processes, file=conversations, rejects=rejects, total=rows, unit="rows"
            ):
                by_source.add(made.kept, made.rejects)
                for line in made.chunks:
                    written.write_line(line)
                for mode, part in made.funnels.items():
                    funnels[mode].merge(part)
            by_source.check()
        funnels[choices.mode].write(funnel)
        with whole_file(comparison) as partial_file:
            side_by_side = {mode: account.to_json() for mode, account in funnels.items()}
            partial_file.write_text(json.dumps(side_by_side, indent=1) + "\n", encoding="utf-8")
        write_manifest(
            chunks,
            kind="chunks",
            files=[chunks],
            beside=[funnel, rejects, comparison],
            inputs={"conversations": conversations, "model": model},
            settings=choices.model_dump(),
            facts={"rows": written.rows, **funnels[choices.mode].facts()},
        )
    print(f"chunk_conversations: {funnels[choices.mode].line('conversations')}", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
