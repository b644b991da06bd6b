"""Preference pairs as ids and labels, as the DPO reference makes them.

Source: `tokenize_batch_element` and the SFT branch of `get_batch_iterator` in the reference implementation of Rafailov
et al. 2023 (preference_datasets.py): prompt and response are tokenized apart, without special tokens, the
end-of-sequence token is put behind the response, and what is too long is cut as `truncate` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amberline.data.conversations import Turn
from amberline.data.tokens import IGNORED
from amberline.recipe.data import PreferenceTokens
from amberline.text.template import render
from amberline.text.tokenizers import Ids, Tokenizer


@dataclass(frozen=True, slots=True)
class Sequences:
    """A prompt with its responses: ids and labels (IGNORED on the prompt) of each, int32.

    `prompt_cut` and `response_cut` are the tokens that truncation took, the latter over all responses.
    """

    prompt_length: int
    input_ids: list[Ids]
    labels: list[Ids]
    prompt_cut: int
    response_cut: int


def encode_prompt_and_responses(
    tokenizer: Tokenizer, prompt: str, responses: Sequence[str], template: str
) -> tuple[Ids, list[Ids]]:
    """Ids of a prompt, and of each response with the end-of-sequence token; `template` as in PreferenceTokens.

    In a template no response may be empty: it has no answer's part then.
    """
    if template == "none":
        eos = np.array([tokenizer.eos_id], np.int32)
        return tokenizer.encode_apart(prompt), [np.append(tokenizer.encode_apart(text), eos) for text in responses]
    encoded = []
    for response in responses:
        context, answer = render([Turn("human", prompt), Turn("gpt", response)], tokenizer.eos)
        encoded.append(tokenizer.encode_parts([context.text, answer.text]))
    return encoded[0][0], [answer for _, answer in encoded]


def truncate(prompt: Ids, responses: Sequence[Ids], settings: PreferenceTokens) -> tuple[Ids, list[Ids]]:
    """Cut to max_length what is too long, the longest response deciding for all of them.

    First the prompt is cut to max_prompt_length (its start or its end is kept); if that is not enough, every response
    is cut to max_length - max_prompt_length, whereby its end-of-sequence token is lost.
    """
    longest = max(map(len, responses))
    if len(prompt) + longest > settings.max_length:
        keep = settings.max_prompt_length
        prompt = prompt[:keep] if settings.truncation == "keep_start" else prompt[-keep:]
    if len(prompt) + longest > settings.max_length:
        responses = [response[: settings.max_length - settings.max_prompt_length] for response in responses]
    return prompt, list(responses)


def join(prompt: Ids, responses: Sequence[Ids], settings: PreferenceTokens) -> Sequences:
    """Truncate, and put each response behind the prompt. For a pair give both responses; for SFT the target alone."""
    short_prompt, short_responses = truncate(prompt, responses, settings)
    ignored = np.full(len(short_prompt), IGNORED, np.int32)
    return Sequences(
        prompt_length=len(short_prompt),
        input_ids=[np.concatenate([short_prompt, response]) for response in short_responses],
        labels=[np.concatenate([ignored, response]) for response in short_responses],
        prompt_cut=len(prompt) - len(short_prompt),
        response_cut=sum(map(len, responses)) - sum(map(len, short_responses)),
    )
