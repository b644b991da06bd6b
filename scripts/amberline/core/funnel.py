"""Accounts of a data stage: what came in, what went out, what was rejected and why.

For every unit (rows, rounds, tokens, ...): in = out + the sum of the rejected. A sum that does not close is an error.
"""

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from amberline.core.files import whole_file

# Lower edges of the histogram bins: 0, then two to the octave (1, 2, 3, 4, 6, 8, 12, ...). The last bin is open.
EDGES = (0, 1, *sorted({2**power for power in range(1, 25)} | {3 * 2**power for power in range(24)}))


DEEPEST_RECORD = 100  # levels of a rejected record that is listed


class FunnelError(Exception):
    """What came into a stage is not what went out of it plus what it rejected."""


class NothingLeft(Exception):
    """Rows went into a stage, or came from one of its sources, and nothing came out: one message with the reason."""


class Funnel:
    """The account of one stage. Plain counts, so that worker processes can hand theirs back to be merged."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.into: Counter[str] = Counter()
        self.out: Counter[str] = Counter()
        self.rejected: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.notes: Counter[str] = Counter()
        self.histograms: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def add(self, unit: str, into: int = 0, out: int = 0) -> None:
        """Count what came in and what went out."""
        self.into[unit] += into
        self.out[unit] += out

    def reject(self, unit: str, reason: str, n: int = 1) -> None:
        """Count what was rejected, by reason."""
        self.rejected[unit][reason] += n

    def note(self, name: str, n: int = 1) -> None:
        """Count something that was kept but should be known."""
        self.notes[name] += n

    def observe(self, name: str, value: int) -> None:
        """Put a value of at least 0 into the histogram of that name."""
        self.histograms[name][bisect_right(EDGES, value) - 1] += 1

    def merge(self, other: "Funnel") -> None:
        """Add another account of the same stage, as of a worker process."""
        self.into.update(other.into)
        self.out.update(other.out)
        self.notes.update(other.notes)
        for unit, reasons in other.rejected.items():
            self.rejected[unit].update(reasons)
        for name, bins in other.histograms.items():
            self.histograms[name].update(bins)

    def close(self) -> None:
        """Raise FunnelError unless every unit's sum closes."""
        for unit in self._units():
            lost = sum(self.rejected.get(unit, Counter()).values())
            if self.into[unit] != self.out[unit] + lost:
                raise FunnelError(
                    f"{self.stage}: the account of {unit} does not close: {self.into[unit]} in, {self.out[unit]} out, "
                    f"{lost} rejected. This is an error of Amberline, not of the data: please report it."
                )

    def to_json(self) -> dict[str, Any]:
        """The account as JSON: stage, counts, notes, histograms (`counts[i]`: `edges[i]` to below `edges[i + 1]`)."""
        return {
            "stage": self.stage,
            "counts": [
                {
                    "unit": unit,
                    "in": self.into[unit],
                    "out": self.out[unit],
                    "rejected": dict(sorted(self.rejected.get(unit, Counter()).items())),
                }
                for unit in self._units()
            ],
            "notes": dict(sorted(self.notes.items())),
            "histograms": {name: _bins(self.histograms[name]) for name in sorted(self.histograms)},
        }

    def facts(self) -> dict[str, Any]:
        """Counts and notes, as a manifest has them."""
        account = self.to_json()
        return {name: account[name] for name in ("counts", "notes")}

    def line(self, unit: str) -> str:
        """The counts of a unit in one line, and what was noted: what a program says last."""
        rejected = self.rejected.get(unit, Counter())
        reasons = f" ({_by_count(rejected)})" if rejected else ""
        noted = f"; noted: {_by_count(self.notes)}" if self.notes else ""
        return f"{self.into[unit]:,} {unit} in, {self.out[unit]:,} out, {rejected.total():,} rejected{reasons}{noted}"

    def write(self, path: Path) -> None:
        """Close the account and write it, atomically."""
        self.close()
        with whole_file(path) as partial:
            partial.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _units(self) -> list[str]:
        """Units in the order in which they were first counted, the same whichever worker counted first."""
        return sorted(self.into.keys() | self.out.keys() | self.rejected.keys())


def _by_count(counted: Counter[str]) -> str:
    """What was counted, the commonest first."""
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count:,}" for name, count in ordered)


def _bins(counted: Counter[int]) -> dict[str, list[int]]:
    used = max(counted) + 1
    return {"edges": list(EDGES[: used + 1]), "counts": [counted[index] for index in range(used)]}


@dataclass(frozen=True, slots=True)
class Reject:
    """One record that a stage rejected, or kept with a remark (`kept`; the record itself is then left out)."""

    file: str
    row: int
    id: str | None
    reason: str
    detail: str
    record: Any = None
    kept: bool = False

    def __post_init__(self) -> None:
        """Leave out a record that nothing can write: reading takes deeper nesting than writing does."""
        if _deeper_than(DEEPEST_RECORD, self.record):
            object.__setattr__(self, "record", None)
            object.__setattr__(self, "detail", f"{self.detail} (the record is nested too deep to be listed)")


def _deeper_than(depth: int, value: Any) -> bool:
    """Whether a JSON value has more levels than that."""
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(level)


class Reasons:
    """Why rows were rejected, by how often, and the first row of each reason."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[bool, str]] = Counter()
        self._first: dict[tuple[bool, str], str] = {}

    def add(self, row: int, reason: str, detail: str, *, kept: bool = False) -> None:
        """Count a row that was rejected, or remarked on (`kept`)."""
        self._counts[kept, reason] += 1
        self._first.setdefault((kept, reason), f"row {row}: {detail}")

    def commonest(self) -> str:
        """The commonest reason of rejects, or else of remarks, and its first row: a clause for messages."""
        if not self._counts:
            return "and nothing was rejected"
        kept, reason = max(self._counts, key=lambda key: (not key[0], self._counts[key]))
        count = self._counts[kept, reason]
        return f"most often ({count:,} times) because of {reason}, first in {self._first[kept, reason]}"


class RejectsWriter:
    """Writes rejects as JSON lines, and knows of each file what was rejected most."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._reasons: defaultdict[str, Reasons] = defaultdict(Reasons)

    def write(self, reject: Reject) -> None:
        """Write one reject."""
        self._reasons[reject.file].add(reject.row, reject.reason, reject.detail, kept=reject.kept)
        row = asdict(reject)
        try:
            line = orjson.dumps(row)
        except TypeError:
            # Lone surrogates, which UTF-8 cannot hold, and very long whole numbers: escaped, nothing is lost.
            line = json.dumps(row).encode("ascii")
        self._handle.write(line + b"\n")

    def commonest(self, file: str) -> str:
        """See Reasons: of the rows of a file."""
        return self._reasons[file].commonest()


@contextmanager
def write_rejects(path: Path) -> Iterator[RejectsWriter]:
    """Write a stage's rejects as JSON lines (file, row, id, reason, detail, record, kept), atomically."""
    with whole_file(path) as partial, open(partial, "wb") as handle:
        yield RejectsWriter(handle)
