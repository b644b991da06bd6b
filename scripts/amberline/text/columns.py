"""Token rows as Arrow columns, and facts about their lengths."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from amberline.core.funnel import Funnel
from amberline.text.tokenizers import Ids


def ids_column(rows: Sequence[Ids]) -> pa.ListArray:
    """Rows of ids as an Arrow column of lists, without a copy for every row."""
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def token_facts(lengths: Counter[int], account: Funnel, **more: int) -> dict[str, Any]:
    """What a manifest says of a token folder: rows, tokens, `more` counts, lengths, and the stage's account."""
    return {
        "rows": lengths.total(),
        "tokens": sum(length * count for length, count in lengths.items()),
        **more,
        "length": length_facts(lengths),
        **account.facts(),
    }


def length_facts(lengths: Counter[int]) -> dict[str, float | int]:
    """Mean, standard deviation and percentiles of counted lengths, for a manifest. Empty if there are none."""
    if not lengths:
        return {}
    values = np.array(sorted(lengths))
    counts = np.array([lengths[value] for value in values.tolist()])
    total = int(counts.sum())
    mean = float((values * counts).sum() / total)
    deviation = float(np.sqrt((counts * (values - mean) ** 2).sum() / total))
    reached = counts.cumsum()
    percentiles = {
        f"p{percent}": int(values[np.searchsorted(reached, percent / 100 * total)])
        for percent in (1, 5, 25, 50, 75, 95, 99)
    }
    return {
        "mean": round(mean, 3),
        "sd": round(deviation, 3),
        "min": int(values[0]),
        **percentiles,
        "max": int(values[-1]),
    }
