"""The mix: conversations of several sources, shuffled into one file that is the same on every machine.

Memory does not hold the rows: they pass once, checked, into a nameless temporary file, of which only the offsets are
kept (44 bytes a row in all), and are then copied in shuffled order.
"""

import os
import re
import tempfile
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from amberline.core.files import placed
from amberline.core.funnel import Funnel, Reject, RejectsWriter, write_rejects
from amberline.core.progress import progress
from amberline.data.conversations import (
    BadRecord,
    Conversation,
    LeftOut,
    WrongFile,
    has_answer,
    keys_left_out,
    oddities,
    with_published_speakers,
)
from amberline.data.row_sources import write_sources
from amberline.data.streams import BadFile, read_records, stem, write_array
from amberline.recipe.data import Mix, Share

# What is held out may be so many times as many rows as conversations were asked for, and so many rows more.
HELDOUT_TIMES, HELDOUT_MORE = 4, 50

NO_ROW = "no row can be used: there is none"

Hashes = NDArray[np.uint64]


class MixError(Exception):
    """The rows do not allow the mix that the settings ask for."""


class Reader(Protocol):
    """How the rows of a source are read: what mixing needs of a format of conversations (`amberline.formats`)."""

    shape: str
    id_key: str | None
    part: re.Pattern[str] | None
    keys: frozenset[str] | None
    turns: Mapping[str, frozenset[str]]

    def conversation(self, row: Any) -> Conversation:
        """A row as a conversation. Raises BadRecord or WrongFile."""


class _Rows:
    """The rows that are kept, in their first order: text on disk, a few numbers each in memory."""

    def __init__(self, spool: BinaryIO) -> None:
        self._spool = spool
        self.offsets = array("Q", [0])
        self.numbers = array("Q")
        self.id_hashes = array("Q")
        self.root_hashes = array("Q")
        self.content_hashes = array("Q")
        self.turns = array("I")

    def add(self, conversation: Conversation, number: int, root: str, seed: int) -> None:
        line = orjson.dumps(conversation.to_json())
        self._spool.write(line)
        self.offsets.append(self.offsets[-1] + len(line))
        self.numbers.append(number)
        self.id_hashes.append(_hash(conversation.id))
        self.root_hashes.append(_hash(f"{seed}:{root}"))
        self.turns.append(len(conversation.turns))
        self.content_hashes.append(_hash("".join(f"{len(turn.text)}:{turn.text}" for turn in conversation.turns)))

    def __len__(self) -> int:
        return len(self.numbers)

    def line(self, index: int) -> bytes:
        """The JSON text of a row."""
        start, end = self.offsets[index], self.offsets[index + 1]
        return os.pread(self._spool.fileno(), end - start, start)

    def flush(self) -> None:
        self._spool.flush()


def mix(sources: Sequence[tuple[Path, Reader]], settings: Mix, *, made: Path, heldout: Path, rejects: Path) -> Funnel:
    """Write the mix, the held-out conversations and the rejects, atomically; return the account.

    All readable rows of each source in turn, shuffled together: row i goes where the hash of "seed:i" sorts it.
    (Hashes are the same everywhere and always; numpy promises that of none of its generators from version to version.)
    Held out are `settings.heldout` whole conversations, all parts of each, chosen by hash likewise, and those that have
    the content of one of them under another id. Rows of a source that the mix repeats are as many rows to be shuffled;
    what is held out is not repeated.
    Raises BadFile, MixError, or FunnelError.
    """
    funnel = Funnel("mix")
    made.parent.mkdir(parents=True, exist_ok=True)
    with (
        placed(made),  # also what is still to be written when the nameless file is closed
        tempfile.TemporaryFile(dir=made.parent) as spool,
        write_array(made) as mix_rows,
        write_array(heldout) as heldout_rows,
        write_rejects(rejects) as rejected,
    ):
        rows = _Rows(spool)
        starts = []
        for (path, reader), prefix, share in zip(sources, root_prefixes(sources), settings.shares, strict=True):
            starts.append(len(rows))
            source = _Source(path, reader, prefix, share, settings.seed)
            _take(source, rows=rows, funnel=funnel, rejected=rejected)
        rows.flush()
        _note_duplicates(rows, [path for path, _ in sources], starts, funnel, rejected)
        is_held_out, copies = _held_out(rows, settings.heldout)
        times = _times(rows, starts, settings.shares, is_held_out)
        _account_for_repeats(times, rows, [path for path, _ in sources], starts, funnel)
        of_repeats = np.repeat(np.arange(len(rows)), times)
        order = of_repeats[_order(len(of_repeats), settings.seed)]
        for index in progress(order, desc="shuffling", unit=" rows"):
            (heldout_rows if is_held_out[index] else mix_rows).write_line(rows.line(int(index)))
        for written, chosen in ((made, ~is_held_out), (heldout, is_held_out)):
            of_row = np.searchsorted(starts, order[chosen[order]], side="right") - 1
            write_sources(written, of_row.tolist())
        funnel.add("rows", out=mix_rows.rows + heldout_rows.rows)
        funnel.note("rows_held_out", heldout_rows.rows)
        funnel.note("conversations_held_out", settings.heldout)
        if copies:
            funnel.note("rows_held_out_as_copies", copies)
        funnel.close()
    return funnel


def root_prefixes(sources: Sequence[tuple[Path, Reader]]) -> Iterator[str]:
    """What keeps the roots of a source apart from those of the others.

    It is the key of its ids, and behind the second and later sources of the same key their number; not their names, so
    that renaming a source does not choose other conversations to hold out.
    """
    seen: Counter[str] = Counter()
    for _, reader in sources:
        key = reader.id_key or "text"
        seen[key] += 1
        yield f"{key}:" if seen[key] == 1 else f"{key}#{seen[key]}:"


@dataclass(frozen=True)
class _Source:
    """A source, what keeps its roots apart from others', and how much of it is taken with which seed."""

    path: Path
    reader: Reader
    prefix: str
    share: Share
    seed: int

    def conversation(self, number: int, value: Any) -> Conversation:
        """A row as a conversation. Raises BadRecord, and BadFile for a row that speaks for its whole file."""
        try:
            return self.reader.conversation(value)
        except WrongFile as fault:
            raise BadFile(self.path, number, fault.what, fault.fix) from None

    def taken(self) -> frozenset[int] | None:
        """Numbers of the rows that are taken, None: of all; those that sort first by the hash of seed and number.

        Of rows that can be read, `take` or the nearest number to `fraction`. Raises MixError if that is none.
        """
        if self.share.take is None and self.share.fraction is None:
            return None
        readable = [number for number, value in read_records(self.path) if self._is_readable(number, value)]
        wanted = self.share.take or round(len(readable) * (self.share.fraction or 1))
        if readable and not wanted:
            raise MixError(
                f"fraction is {self.share.fraction}, and of the {len(readable)} rows of {self.path} that is none. "
                "Fix: raise it, or remove the source"
            )
        readable.sort(key=lambda number: _hash(f"{self.seed}:taken:{self.prefix}{number}"))
        return frozenset(readable[:wanted])

    def _is_readable(self, number: int, value: Any) -> bool:
        try:
            self.conversation(number, value)
        except BadRecord:
            return False
        return True


def _take(source: _Source, *, rows: _Rows, funnel: Funnel, rejected: RejectsWriter) -> None:
    """Check the rows of one source and keep those that can be read and are to be taken."""
    path, reader = source.path, source.reader
    before, rows_before = len(rows), funnel.into["rows"]
    taken = source.taken()
    with_answer = False
    left_out = LeftOut()
    for number, value in progress(read_records(path), desc=f"reading {path.name}", unit=" rows"):
        funnel.add("rows", into=1)
        try:
            conversation = source.conversation(number, value)
        except BadRecord as fault:
            funnel.reject("rows", fault.reason)
            known = _known_id(value, reader.id_key)
            rejected.write(Reject(path.name, number, known, fault.reason, fault.detail, value))
            continue
        renamed = with_published_speakers(conversation)
        with_answer = with_answer or has_answer(renamed or conversation)
        if taken is not None and number not in taken:
            funnel.reject("rows", "not_taken")
            detail = f"the mix takes {len(taken):,} rows of this source"
            rejected.write(Reject(path.name, number, conversation.id, "not_taken", detail))
            continue
        if renamed is not None:
            funnel.note("user_and_assistant_renamed")
            conversation = renamed
        part = reader.part and reader.part.fullmatch(conversation.id)
        rows.add(conversation, number, source.prefix + (part[1] if part else conversation.id), source.seed)
        funnel.add("turns", into=len(conversation.turns), out=len(conversation.turns))
        funnel.observe("turns in a conversation", len(conversation.turns))
        funnel.observe("characters in a conversation", sum(len(turn.text) for turn in conversation.turns))
        for kind, key in keys_left_out(value, reader):
            left_out.note(funnel, kind, key)
            if kind == "system_prompt_left_out":
                rejected.write(Reject(path.name, number, conversation.id, kind, f"under the key {key!r}", kept=True))
        for kind, detail in oddities(conversation):
            funnel.note(kind)
            rejected.write(Reject(path.name, number, conversation.id, kind, detail, kept=True))
    funnel.note(f"rows_kept_of_{stem(path)}", len(rows) - before)
    if len(rows) == before:
        raise BadFile(
            path,
            0,
            f"no row can be used, {rejected.commonest(path.name)}" if funnel.into["rows"] > rows_before else NO_ROW,
            f"give the right file and format: rows must be {reader.shape}.",
        )
    if not with_answer:
        rows.flush()
        speakers = sorted({turn["from"] for turn in orjson.loads(rows.line(before))["conversations"]})
        raise BadFile(
            path,
            0,
            f"in no row does an assistant's turn follow a human's; the first row's speakers are {speakers[:5]}",
            "name them human and gpt, or user and assistant.",
        )


def _known_id(value: Any, id_key: str | None) -> str | None:
    """The id of a row that cannot be read, if there is one."""
    identity = value.get(id_key) if isinstance(value, dict) else None
    return identity if isinstance(identity, str) else None


def _note_duplicates(
    rows: _Rows, paths: Sequence[Path], starts: Sequence[int], funnel: Funnel, rejected: RejectsWriter
) -> None:
    """List rows whose id an earlier row has, or whose turns one has under another id.

    They are kept: the published recipe trains on all. `starts` are the first rows of each path.
    """

    def place(index: int) -> tuple[str, int]:
        return paths[bisect_right(starts, index) - 1].name, rows.numbers[index]

    def remark(index: int, kind: str, detail: str) -> None:
        identity = orjson.loads(rows.line(index))["id"]
        funnel.note(kind)
        rejected.write(Reject(*place(index), identity, kind, detail, kept=True))

    ids = np.frombuffer(rows.id_hashes, np.uint64)
    for index, _ in _repeated(ids):
        remark(index, "duplicate_id", "an earlier row has this id")
    for index, first in _repeated(np.frombuffer(rows.content_hashes, np.uint64)):
        if ids[index] != ids[first]:
            remark(index, "duplicate_content", "{}, row {} has the same turns under another id".format(*place(first)))


def _repeated(hashes: Hashes) -> Iterator[tuple[int, int]]:
    """The rows that have the hash of an earlier one, each with the first that has it."""
    _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
    firsts = first[number]
    for index in np.flatnonzero(firsts != np.arange(len(hashes))).tolist():
        yield index, int(firsts[index])


def _held_out(rows: _Rows, conversations: int) -> tuple[NDArray[np.bool_], int]:
    """Which rows belong to the `conversations` roots with the smallest hashes, or to roots with a copy of one of those.

    Also how many the latter are. Raises MixError.
    """
    root_hashes = np.frombuffer(rows.root_hashes, np.uint64)
    if conversations == 0:
        return np.zeros(len(root_hashes), bool), 0
    roots = np.unique(root_hashes)
    nothing_left = (
        f"heldout is {conversations}, but there are only {len(roots)} conversations in all: "
        "nothing would be left to train on; hold out fewer"
    )
    if conversations >= len(roots):
        raise MixError(nothing_left)
    chosen = np.asarray(root_hashes <= roots[conversations - 1])
    is_held_out = _with_copies(root_hashes, np.frombuffer(rows.content_hashes, np.uint64), chosen)
    if is_held_out.all():
        raise MixError(f"{nothing_left}. All rows are held out, for some have the same turns under other ids")
    held_out, copies = int(is_held_out.sum()), int(is_held_out.sum() - chosen.sum())
    if held_out > HELDOUT_TIMES * conversations + HELDOUT_MORE:
        raise MixError(
            f"heldout is {conversations} conversations, but these would be {held_out:,} of the {len(chosen):,} rows, "
            f"{copies:,} of them copies of others under another id. Rows are parts of one conversation when they have "
            "the same id, or ids like ShareGPT's (seven letters or digits, _ and a number). Fix: give each "
            "conversation an id of its own, remove copies, or hold out none"
        )
    return is_held_out, copies


def _with_copies(root_hashes: Hashes, content_hashes: Hashes, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The chosen rows, and all of the conversations that have the content of one of them, until there are no more."""
    while True:
        same_content = np.isin(content_hashes, content_hashes[chosen])
        wider = np.isin(root_hashes, root_hashes[same_content])
        if np.array_equal(wider, chosen):
            return chosen
        chosen = wider


def _times(
    rows: _Rows, starts: Sequence[int], shares: Sequence[Share], is_held_out: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """How often each row is written: as its source's share says, once where it is held out."""
    counts = np.diff([*starts, len(rows)])
    times = np.repeat(np.array([share.repeat for share in shares], np.int64), counts)
    return np.where(is_held_out, 1, times)


def _account_for_repeats(
    times: NDArray[np.int64], rows: _Rows, paths: Sequence[Path], starts: Sequence[int], funnel: Funnel
) -> None:
    """Count what repeats add to what came in, so that the account closes with the rows that are written."""
    added = times - 1
    turns = int(added @ np.frombuffer(rows.turns, np.uint32))
    funnel.add("rows", into=int(added.sum()))
    funnel.add("turns", into=turns, out=turns)
    for path, more in zip(paths, np.add.reduceat(added, starts).tolist(), strict=True):
        if more:
            funnel.note(f"rows_added_by_repeating_{stem(path)}", more)


def _order(count: int, seed: int) -> NDArray[np.int64]:
    """A permutation of `count` rows that depends on the seed alone."""
    keys = np.fromiter((_hash(f"{seed}:{index}") for index in range(count)), np.uint64, count)
    return np.argsort(keys, kind="stable")


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
