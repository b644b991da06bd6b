"""What became of layers that were to be compiled."""

import torch


def lost_compilation() -> str | None:
    """A sentence about layers that torch did not compile, or not whole, up to now; None where it did.

    torch itself says so only where it gives up after many sizes.
    """
    counters = torch._dynamo.utils.counters
    graphs, breaks = counters["stats"]["unique_graphs"], counters["graph_break"]
    if graphs and not breaks:
        return None
    what = f"only in pieces, {graphs} graphs" if graphs else "not at all"
    reason = next(iter(breaks), "torch names no reason").partition("\n")[0]
    return f"compile: layers were compiled {what} ({reason}). Fix: set attention under hardware to auto, or compile off"
