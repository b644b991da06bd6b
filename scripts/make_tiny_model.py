"""Make a small, randomly initialised model with a tokenizer trained on conversations: a stand-in for a real one."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from amberline.core.ending import one_message
from amberline.core.files import whole_folder
from amberline.core.funnel import Funnel, Reasons
from amberline.core.manifests import ManifestError, model_content, verify, write_manifest
from amberline.core.progress import progress
from amberline.data.conversations import BadRecord, WrongFile
from amberline.data.streams import BadFile, by_name, read_records
from amberline.formats.base import ConversationFormat
from amberline.formats.registry import FormatError, with_formats
from amberline.recipe.data import Tiny, TinyModel
from amberline.recipe.tiny_models import ARCHITECTURES, Sizes
from amberline.text.small_byte_level import save_byte_level, train_byte_level
from amberline.text.small_tokenizer import SmallTokenizerError, save_llama_tokenizer, train_sentencepiece


def texts(sources: list[tuple[Path, ConversationFormat]], counted: Funnel) -> Iterator[str]:
    """Every turn's text, in order. Rows that are no conversations are passed over, and counted."""
    for file, format_ in sources:
        before, reasons = counted.out["rows"], Reasons()
        for record in progress(read_records(file), desc=f"reading {file.name}", unit=" rows"):
            counted.add("rows", into=1)
            try:
                conversation = format_.conversation(record.value)
            except WrongFile as fault:
                raise BadFile(file, record.number, fault.what, fault.fix) from None
            except BadRecord as fault:
                counted.reject("rows", fault.reason)
                reasons.add(record.number, fault.reason, fault.detail)
                continue
            counted.add("rows", out=1)
            yield from (turn.text for turn in conversation.turns)
        if counted.out["rows"] == before:
            fix = f"give the right file and format: rows must be {format_.shape}."
            raise BadFile(file, 0, f"no row can be used, {reasons.commonest()}", fix)


def save_tokenizer(settings: TinyModel, texts: Iterator[str], folder: Path) -> dict[str, int | None]:
    """Train and write a tokenizer of the kind asked for; return its special ids as config.json has them."""
    kind = settings.tokenizer_kind
    if kind == "llama":
        save_llama_tokenizer(train_sentencepiece(texts, settings.vocabulary), folder, settings.context)
        return {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return save_byte_level(train_byte_level(texts, settings.vocabulary, kind), folder, kind, settings.context)


def save_model(settings: TinyModel, special: Mapping[str, int | None], folder: Path) -> int:
    """Write a model of those sizes with seeded random weights in fp32; return its number of parameters."""
    import torch
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.utils.logging import disable_progress_bar

    sizes = Sizes(settings.hidden_size, settings.heads, settings.context)
    particular = ARCHITECTURES[settings.architecture](sizes)
    torch.manual_seed(settings.seed)
    config = CONFIG_MAPPING[particular.pop("model_type")](
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context,
        rms_norm_eps=1e-6,
        **special,
        **particular,
    )
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    disable_progress_bar()  # of saving: a log cannot be drawn over
    model.save_pretrained(folder)
    parameters: int = model.num_parameters()
    return parameters


def main(
    conversations: Annotated[
        list[Path],
        typer.Option(help="raw conversations to train the tokenizer on; repeated, in the order of formats"),
    ],
    settings: Annotated[str, typer.Option(help="as JSON: Tiny in scripts/amberline/recipe/data.py")],
    output: Annotated[Path, typer.Option(help="Hugging Face folder to write")],
) -> None:
    """Make a small stand-in for a pretrained model."""
    with one_message("make_tiny_model", ValidationError, ManifestError, FormatError, BadFile, SmallTokenizerError):
        choices = Tiny.model_validate_json(settings)
        sizes = choices.tiny
        inputs = by_name(conversations)
        for file in conversations:
            verify(file)
        sources = with_formats(conversations, choices.formats, ConversationFormat)
        counted = Funnel("make_tiny_model")
        with whole_folder(output) as folder:
            special = save_tokenizer(sizes, texts(sources, counted), folder)
            parameters = save_model(sizes, special, folder)
            write_manifest(
                folder,
                kind="model",
                files=list(folder.iterdir()),
                inputs=inputs,
                settings=choices.model_dump(),
                facts={"parameters": parameters, "vocabulary": sizes.vocabulary},
                digest=model_content(folder),
            )
    print(f"make_tiny_model: {parameters:,} parameters; {counted.line('rows')}", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
