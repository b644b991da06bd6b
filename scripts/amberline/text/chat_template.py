"""The Vicuna template as Jinja, for the chat template of an exported model: the tokens that training saw."""

import json

from amberline.text.template import SYSTEM
from amberline.text.tokenizers import TRICKY_TEXTS, Tokenizer, TokenizerRefused

# Vicuna v1.1, as fastchat.conversation has it: one space behind system and question, none behind an answer's end.
VICUNA = """\
{%- if messages[0]['role'] == 'system' -%}
{%- set system, messages = messages[0]['content'], messages[1:] -%}
{%- else -%}
{%- set system = SYSTEM -%}
{%- endif -%}
{{- OPENING + system + ' ' -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- 'USER: ' + message['content'] + ' ' -}}
{%- elif message['role'] == 'assistant' -%}
{{- 'ASSISTANT: ' + message['content'] + eos_token -}}
{%- else -%}
{{- raise_exception('only system, user and assistant speak in the Vicuna template') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'ASSISTANT:' -}}
{%- endif -%}
"""


def vicuna(tokenizer: Tokenizer) -> str:
    """The template for a tokenizer. Raises TokenizerRefused where no text stands for what it puts in front of one."""
    return VICUNA.replace("SYSTEM", json.dumps(SYSTEM)).replace("OPENING", json.dumps(opening(tokenizer)))


def opening(tokenizer: Tokenizer) -> str:
    """What a chat template has to write for the tokens that `encode` puts in front: a chat is encoded without them.

    A Llama tokenizer that is not of the legacy kind puts a space in front of a text, but none behind its
    beginning-of-sequence token; there it has to be written. Raises TokenizerRefused.
    """
    for found in (tokenizer.bos, f"{tokenizer.bos} "):
        if all(
            tokenizer.encode_apart(found + text).tolist() == tokenizer.encode(text).tolist()
            for text in (SYSTEM, *TRICKY_TEXTS)
        ):
            return found
    raise TokenizerRefused(
        f"the tokenizer puts {tokenizer.bos!r} in front of a text, but does not read it from one: no chat template "
        "could ask a model as it was trained. Fix: take a model with another tokenizer."
    )
