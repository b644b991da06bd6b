"""Preference rows of PKU-SafeRLHF, and the pairs chosen from them as published for AmberSafe.

A row has a prompt, two responses, and for each whether it is safe. Kept are rows with exactly one safe response, which
is the chosen one. The pairs of a prompt are grouped in the shape that the DPO reference trains from:
`{prompt: {"responses": [...], "pairs": [[chosen index, rejected index], ...], "sft_target": response}}`, where every
pair adds its two responses (chosen first; none is merged with an equal one), and the last row's chosen response is
the target of the supervised finetune.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from tqdm import tqdm

from amberline.core.files import whole_file
from amberline.core.funnel import Funnel, Reject, RejectsWriter, write_rejects
from amberline.data.conversations import SPECIAL_TOKENS, BadRecord, kind_of, refuse_lone_surrogates
from amberline.data.streams import BadFile, read_records
from amberline.recipe.data import SafePairs

TEXTS = ("prompt", "response_0", "response_1")
SAFE = ("is_response_0_safe", "is_response_1_safe")
V0_COLUMNS = (*TEXTS, *SAFE, "better_response_id", "safer_response_id")
# Columns that v1 has beside those of v0.
V1_COLUMNS = ("response_0_harm_category", "response_1_harm_category")


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with a safe and an unsafe response."""

    prompt: str
    chosen: str
    rejected: str


def columns_version(row: dict[str, Any]) -> Literal["v0", "v1"] | None:
    """Which PKU-SafeRLHF a row's columns are of; None: neither."""
    if any(column not in row for column in V0_COLUMNS):
        return None
    return "v1" if any(column in row for column in V1_COLUMNS) else "v0"


def parse_pair(row: dict[str, Any]) -> Pair:
    """The pair of a row. Raises BadRecord: text_wrong_type, safe_wrong_type, lone_surrogate, both_safe, both_unsafe."""
    for column in TEXTS:
        if not isinstance(row[column], str):
            raise BadRecord("text_wrong_type", f"{column!r} is {kind_of(row[column])}, not a string")
        refuse_lone_surrogates(row[column], column)
    for column in SAFE:
        if not isinstance(row[column], bool):
            raise BadRecord("safe_wrong_type", f"{column!r} is {kind_of(row[column])}, not true or false")
    match row["is_response_0_safe"], row["is_response_1_safe"]:
        case True, False:
            return Pair(row["prompt"], row["response_0"], row["response_1"])
        case False, True:
            return Pair(row["prompt"], row["response_1"], row["response_0"])
        case True, True:
            raise BadRecord("both_safe", "no response is unsafe")
        case _:
            raise BadRecord("both_unsafe", "no response is safe")


def select_safe_pairs(rows: Path, settings: SafePairs, pairs: Path, jsonl: Path, rejects: Path) -> Funnel:
    """Write the pairs grouped by prompt, the same as JSON lines, and the rejects, atomically; return the account.

    Both files hold the prompts in order of their first kept row, each with its pairs in row order.
    Raises BadFile when the columns are those of another version, or no row gives a pair; FunnelError.
    """
    funnel = Funnel("select_safe_pairs")
    # The kept pairs are held in memory: the published data is 330,000 rows, some 200 MB.
    grouped: dict[str, list[Pair]] = {}
    with write_rejects(rejects) as rejected:
        for pair in _pairs(rows, settings.version, funnel, rejected):
            grouped.setdefault(pair.prompt, []).append(pair)
        count = sum(len(group) for group in grouped.values())
        if not funnel.into["rows"]:
            raise BadFile(rows, 0, "there is no row in it", "Get it again, or correct the configuration.")
        if not count:
            raise BadFile(rows, 0, "no row has exactly one safe response", "Is it the right file?")
        funnel.add("rows", out=count)
        funnel.note("prompts", len(grouped))
        funnel.close()
        with whole_file(pairs) as pairs_partial, whole_file(jsonl) as jsonl_partial:
            _write_grouped(grouped, pairs_partial)
            _write_lines(grouped, jsonl_partial)
    return funnel


def _write_grouped(grouped: dict[str, list[Pair]], path: Path) -> None:
    """One JSON object, one prompt a line."""
    with open(path, "wb") as handle:
        separator = b"{\n"
        for prompt, group in grouped.items():
            handle.write(separator + orjson.dumps(prompt) + b": " + orjson.dumps(reference_shape(group)))
            separator = b",\n"
        handle.write(b"\n}\n")


def _write_lines(grouped: dict[str, list[Pair]], path: Path) -> None:
    with open(path, "wb") as handle:
        for group in grouped.values():
            for pair in group:
                handle.write(orjson.dumps(pair) + b"\n")


def reference_shape(group: list[Pair]) -> dict[str, Any]:
    """The pairs of one prompt as the DPO reference holds them."""
    return {
        "responses": [response for pair in group for response in (pair.chosen, pair.rejected)],
        "pairs": [(2 * index, 2 * index + 1) for index in range(len(group))],
        "sft_target": group[-1].chosen,
    }


def _pairs(path: Path, version: str, funnel: Funnel, rejected: RejectsWriter) -> Iterator[Pair]:
    """The pairs of a file's rows; what gives none is counted and listed."""
    for number, row in tqdm(read_records(path), desc=f"reading {path.name}", unit=" rows"):
        funnel.add("rows", into=1)
        try:
            _check_columns(path, number, row, version)
            pair = parse_pair(row)
        except BadRecord as fault:
            funnel.reject("rows", fault.reason)
            rejected.write(Reject(path.name, number, None, fault.reason, fault.detail, row))
            continue
        for kind in _oddities(pair):
            funnel.note(kind)
            rejected.write(Reject(path.name, number, None, kind, "kept", kept=True))
        funnel.observe("characters in a prompt", len(pair.prompt))
        funnel.observe("characters in a chosen response", len(pair.chosen))
        funnel.observe("characters in a rejected response", len(pair.rejected))
        yield pair


def _check_columns(path: Path, number: int, row: Any, version: str) -> None:
    """Raise BadFile if the row is one of the other version, BadRecord if it is of neither."""
    if not isinstance(row, dict):
        raise BadRecord("row_not_an_object", f"found {kind_of(row)}")
    found = columns_version(row)
    if found is None:
        missing = ", ".join(column for column in V0_COLUMNS if column not in row)
        if number == 1:
            raise BadFile(path, 1, f"columns are missing: {missing}", "Is it a file of PKU-SafeRLHF?")
        raise BadRecord("column_missing", missing)
    if found != version:
        raise BadFile(
            path,
            number,
            f"this row has the columns of PKU-SafeRLHF {found}, but {version} is asked for",
            "The hub's main branch is v1 since 2024-06, the published recipe used v0 (revision "
            "ff7ba91063016c78a225b0f74e1c0860bb18230f, round0/). Take that, or set ambersafe.pairs.version.",
        )


def _oddities(pair: Pair) -> Iterator[str]:
    if not pair.prompt.strip():
        yield "empty_prompt"
    if not pair.chosen.strip():
        yield "empty_chosen_response"
    if not pair.rejected.strip():
        yield "empty_rejected_response"
    if pair.chosen == pair.rejected:
        yield "equal_responses"
    if any(token in text for token in SPECIAL_TOKENS for text in (pair.prompt, pair.chosen, pair.rejected)):
        yield "literal_special_token"
