"""Preferences: a prompt with two responses and what is said of them, and the pairs that are trained on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt with two responses, and for each whether it is safe."""

    prompt: str
    responses: tuple[str, str]
    safe: tuple[bool, bool]


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with the preferred response and the other."""

    prompt: str
    chosen: str
    rejected: str
