"""Pairs of a preferred response and another, chosen from preferences.

`exactly_one_safe`, as published for AmberSafe: kept are rows with exactly one safe response, which is the chosen one.
`chosen`: all rows are kept, and each says itself which response is preferred.
The pairs of a prompt are grouped in the shape that the DPO reference trains from:
`{prompt: {"responses": [...], "pairs": [[chosen index, rejected index], ...], "sft_target": response}}`, where every
pair adds its two responses (chosen first; none is merged with an equal one), and the last row's chosen response is
the target of the supervised finetune. A prompt of several turns has them as `turns` beside those keys.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import orjson

from amberline.core.files import whole_file
from amberline.core.funnel import Funnel, Reject, RejectsWriter, write_rejects
from amberline.core.progress import progress
from amberline.data.conversations import SPECIAL_TOKENS, BadRecord, LeftOut, WrongFile, keys_left_out, turn_to_json
from amberline.data.preferences import Pair, Preference, read_grouped
from amberline.data.streams import BadFile, read_records
from amberline.recipe.data import Pairs


class Reader(Protocol):
    """How the rows of a source are read: what selection needs of a format of preferences (`amberline.formats`)."""

    shape: str
    keys: frozenset[str] | None
    turns: Mapping[str, frozenset[str]]
    selections: frozenset[str]

    def preference(self, row: Any) -> Preference:
        """A row as a preference. Raises BadRecord or WrongFile."""


def exactly_one_safe(preference: Preference) -> Pair:
    """The safe response and the unsafe one. Raises BadRecord: both_safe, both_unsafe."""
    match preference.safe:
        case True, False:
            return _pair(preference, 0)
        case False, True:
            return _pair(preference, 1)
        case True, True:
            raise BadRecord("both_safe", "no response is unsafe")
        case _:
            raise BadRecord("both_unsafe", "no response is safe")


def chosen(preference: Preference) -> Pair:
    """The response that the row says is preferred, and the other."""
    assert preference.chosen is not None, "`selections` of the format says so"
    return _pair(preference, preference.chosen)


def _pair(preference: Preference, preferred: int) -> Pair:
    responses = preference.responses
    return Pair(preference.prompt, responses[preferred], responses[1 - preferred], preference.turns)


# By `select` of the settings: the pair of a preference, and what is said of a file in which none has one.
SELECTIONS: Mapping[str, tuple[Callable[[Preference], Pair], str]] = {
    "exactly_one_safe": (exactly_one_safe, "no row has exactly one safe response"),
    "chosen": (chosen, "no row can be used"),
}


def select_pairs(
    sources: Sequence[tuple[Path, Reader]],
    settings: Pairs,
    pairs: Path,
    jsonl: Path,
    rejects: Path,
    trained_on: Path | None = None,
) -> Funnel:
    """Write the pairs grouped by prompt, the same as JSON lines, and the rejects, atomically; return the account.

    Both files hold the prompts in order of their first kept row, each with its pairs in row order, source by source.
    Prompts that are in `trained_on` too, pairs grouped by prompt, are noted and listed.
    Raises BadFile when a source is another file than its format reads, or no row of it gives a pair; FunnelError.
    """
    funnel = Funnel("select_pairs")
    # The kept pairs are held in memory: the published data is 330,000 rows, some 200 MB.
    grouped: dict[str, list[Pair]] = {}
    seen: set[Pair] = set()
    trained: Container[str] = read_grouped(trained_on) if trained_on else ()
    with write_rejects(rejects) as rejected:
        for path, reader in sources:
            for number, pair in _pairs(path, reader, settings.select, funnel, rejected):
                group = grouped.setdefault(pair.prompt, [])
                for kind, detail in _against_earlier(pair, group, seen, trained):
                    funnel.note(kind)
                    rejected.write(Reject(path.name, number, None, kind, detail, kept=True))
                group.append(pair)
                seen.add(pair)
        funnel.add("rows", out=sum(len(group) for group in grouped.values()))
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
                handle.write(orjson.dumps(pair.to_json()) + b"\n")


def reference_shape(group: list[Pair]) -> dict[str, Any]:
    """The pairs of one prompt as the DPO reference holds them, and its turns if it is more than one."""
    turns = group[0].turns
    return {
        "responses": [response for pair in group for response in (pair.chosen, pair.rejected)],
        "pairs": [(2 * index, 2 * index + 1) for index in range(len(group))],
        "sft_target": group[-1].chosen,
        **({"turns": list(map(turn_to_json, turns))} if turns else {}),
    }


def _pairs(
    path: Path, reader: Reader, select: str, funnel: Funnel, rejected: RejectsWriter
) -> Iterator[tuple[int, Pair]]:
    """The pairs of a file's rows, each with its row's number; what gives none is counted and listed."""
    choose, none_found = SELECTIONS[select]
    if select not in reader.selections:
        what = f"its rows do not tell what `select: {select}` asks for"
        raise BadFile(path, 0, what, f"write select: {' or '.join(sorted(reader.selections))}.")
    rows = found = 0
    left_out = LeftOut()
    for number, row in progress(read_records(path), desc=f"reading {path.name}", unit=" rows"):
        rows += 1
        funnel.add("rows", into=1)
        try:
            pair = choose(_read(path, reader, number, row))
            for kind, key in keys_left_out(row, reader):
                left_out.note(funnel, kind, key)
        except BadRecord as fault:
            funnel.reject("rows", fault.reason)
            rejected.write(Reject(path.name, number, None, fault.reason, fault.detail, row))
            continue
        found += 1
        for kind in _oddities(pair):
            funnel.note(kind)
            rejected.write(Reject(path.name, number, None, kind, "kept", kept=True))
        texts = [turn.text for turn in pair.turns] or [pair.prompt]
        funnel.observe("characters in a prompt", sum(map(len, texts)))
        funnel.observe("characters in a chosen response", len(pair.chosen))
        funnel.observe("characters in a rejected response", len(pair.rejected))
        yield number, pair
    if not rows:
        raise BadFile(path, 0, "there is no row in it", "get it again, or correct the configuration.")
    if not found:
        raise BadFile(
            path,
            0,
            f"{none_found}, {rejected.commonest(path.name)}",
            f"give the right file and format: rows must be {reader.shape}.",
        )


def _read(path: Path, reader: Reader, number: int, row: Any) -> Preference:
    """A row as a preference. Raises BadRecord, and BadFile for a row that tells that its whole file is another."""
    try:
        return reader.preference(row)
    except WrongFile as fault:
        raise BadFile(path, number, fault.what, fault.fix) from None
    except BadRecord as fault:
        if number == 1 and fault.reason == "column_missing":
            fix = f"give the right file and format: rows must be {reader.shape}."
            raise BadFile(path, 1, f"columns are missing: {fault.detail}", fix) from None
        raise


def _against_earlier(
    pair: Pair, group: Sequence[Pair], seen: Set[Pair], trained: Container[str]
) -> Iterator[tuple[str, str]]:
    """What a pair repeats, contradicts or overwrites of the earlier ones: (kind, detail) pairs. All are kept.

    `group` are those of its prompt, `seen` those of all, `trained` prompts that are trained on.
    """
    if not group and pair.prompt in trained:
        yield "prompt_trained_on", "its prompt is among those that are trained on"
    if pair in seen:
        yield "duplicate_pair", "an earlier row has the same pair"
    if pair.chosen != pair.rejected and replace(pair, chosen=pair.rejected, rejected=pair.chosen) in seen:
        yield "contradicting_pair", "an earlier row prefers the response that this one rejects"
    if group and group[-1].chosen != pair.chosen:
        yield "sft_target_overwritten", "its chosen response replaces another in supervised finetuning"


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
