"""What a program of several processes says when it ends: one message, from a process that knows the reason."""

import sys

from amberline.core.ending import explain
from amberline.hub.model_names import ModelError
from amberline.training.ranks import LostProcess, Ranks

# What may befall one process alone; other errors are known to all when they are raised.
LONELY = (LostProcess, ModelError, OSError)


def complain(stage: str, error: BaseException, ranks: Ranks) -> None:
    """Print what ended a program, once."""
    what = explain(error) if isinstance(error, OSError) else error
    if ranks.first:
        print(f"{stage}: {what}", file=sys.stderr)
    elif isinstance(error, LONELY):
        print(f"{stage}, process {ranks.rank}: {what}", file=sys.stderr)
