"""Amberline's `fastchat` mode and FastChat's own functions, side by side on the same rows."""

from fastchat.data import split_long_conversation
from fastchat.train.train import preprocess
from slow_llama import SlowLlama

from amberline.data.conversations import parse_conversation
from amberline.recipe.data import Chunk
from amberline.text.chunk_pieces import chunk_json, cut_conversation
from amberline.text.masks import IGNORED, fastchat_mask
from amberline.text.tokenizers import Tokenizer


def fastchat_chunks(rows: list[dict], slow: SlowLlama, max_length: int) -> list[dict]:
    """What `python -m fastchat.data.split_long_conversation` writes."""
    split_long_conversation.tokenizer, split_long_conversation.max_length = slow, max_length
    cut = [chunk for row in rows for chunk in split_long_conversation.split_one_sample(row)]
    return split_long_conversation.filter_invalid_roles(cut)


def our_chunks(rows: list[dict], tokenizer: Tokenizer, max_length: int) -> list[dict]:
    settings = Chunk(mode="fastchat", template="vicuna", max_length=max_length, keep_leading_answer=False)
    chunks = []
    for row in rows:
        conversation = parse_conversation(row)
        tokens = [tokenizer.count(turn.text) for turn in conversation.turns]
        cut = cut_conversation(tokenizer, conversation.turns, tokens, settings, "fastchat")
        chunks += [chunk_json(conversation, chunk) for chunk in cut.chunks]
    return chunks


def mask_differences(chunks: list[dict], slow: SlowLlama, tokenizer: Tokenizer, max_length: int) -> list[tuple]:
    """Chunks whose ids or labels are not those of `fastchat.train.train.preprocess`: (id, what, ours, FastChat's).

    FastChat pads to max_length; behind the end of ours it must have padding without a loss.
    """
    slow.model_max_length = max_length
    different = []
    for chunk in chunks:
        theirs = preprocess([chunk["conversations"]], slow)
        ids, labels = theirs["input_ids"][0].tolist(), theirs["labels"][0].tolist()
        ours = fastchat_mask(tokenizer, parse_conversation(chunk).turns, max_length)
        padding = max_length - len(ours.input_ids)
        for what, mine, expected in (
            ("ids", ours.input_ids.tolist() + [slow.pad_token_id] * padding, ids),
            ("labels", ours.labels.tolist() + [IGNORED] * padding, labels),
        ):
            if mine != expected:
                different.append((chunk["id"], what, mine, expected))
    return different
