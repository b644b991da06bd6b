"""Preference pairs as ids and labels, as the DPO reference makes them.

Source: `tokenize_batch_element` and the SFT branch of `get_batch_iterator` in the reference implementation of Rafailov
et al. 2023 (preference_datasets.py): prompt and response are tokenized apart, without special tokens, the
end-of-sequence token is put behind the response, and what is too long is cut as `truncate` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amberline.data.conversations import BadRecord, Turn
from amberline.data.tokens import IGNORED
from amberline.recipe.data import PreferenceTokens
from amberline.text.chats import chat_of
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
    tokenizer: Tokenizer, prompt: Sequence[Turn], responses: Sequence[str], template: str
) -> tuple[Ids, list[Ids]]:
    """Ids of a prompt, and of each response with the token that ends it; `template` as in PreferenceTokens.

    Without a template the prompt is one turn. In vicuna no response may be empty: it has no answer's part then. Raises
    BadRecord: prompt_changed_by_response where the prompts of two responses are not the same tokens, and what rendering
    raises.
    """
    if template == "none":
        (turn,) = prompt
        eos = np.array([tokenizer.eos_id], np.int32)
        return tokenizer.encode_apart(turn.text), [np.append(tokenizer.encode_apart(text), eos) for text in responses]
    chat = chat_of(tokenizer, template)
    encoded = []
    for response in responses:
        parts = chat.render([*prompt, Turn("gpt", response)], last_only=True)
        ids = chat.encode([part.text for part in parts])
        (last,) = (number for number, part in enumerate(parts) if part.is_answer)
        # With what the template writes behind the end of a turn, such as a line end: TRL trains on it, too.
        encoded.append((np.concatenate(ids[:last]), np.concatenate(ids[last:])))
    if any(not np.array_equal(ids, encoded[0][0]) for ids, _ in encoded):
        raise BadRecord("prompt_changed_by_response", "a token reaches from the prompt into a response")
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
