"""What a program of several processes says when it ends: one message, from a process that knows the reason."""

import sys
import traceback
from collections.abc import Callable

from amberline.core.ending import explain
from amberline.hub.model_names import ModelError
from amberline.training.checkpoints import CheckpointFailedHere
from amberline.training.errors import is_out_of_memory, told
from amberline.training.ranks import FirstRankFailed, Ranks, is_loss_of_process

# What may befall one process alone; other expected errors are known to all when they are raised, and the first process
# is waited for to tell them.
LONELY = (CheckpointFailedHere, ModelError, OSError)


def complain(
    program: str,
    error: Exception,
    ranks: Ranks,
    expected: tuple[type[Exception], ...],
    *,
    is_first: bool,
    is_new: Callable[[str], bool],
) -> None:
    """Print what ended a program.

    `is_first`: no other process has failed before this one. `is_new`: whether no other process has had a message, for
    what befalls all of them one by one.
    """
    here = f"{program}, process {ranks.rank}" if ranks.world > 1 else program
    if is_loss_of_process(error):
        # A process that has failed has told why, and is what the others have lost.
        if is_first:
            _say(
                program,
                f"process {ranks.rank} has lost touch with another one, which was killed, has failed or hangs: its own "
                "message may be above. What is finished, checkpoints too, is good; start the same command again to go "
                "on",
            )
    elif is_out_of_memory(error):
        _say(here, _out_of_memory(error, ranks))
    elif isinstance(error, FirstRankFailed):
        pass
    elif isinstance(error, expected):
        what = explain(error) if isinstance(error, OSError) else str(error)
        if is_new(what):
            _say(program if ranks.first else here, what)
    else:
        if is_first:
            sys.stderr.write("".join(traceback.format_exception(error)))
        _say(here, f"{told(error)}. This is a fault of the program. What is finished, checkpoints too, is good")


def _out_of_memory(error: Exception, ranks: Ranks) -> str:
    if ranks.device.type == "cuda" and not isinstance(error, MemoryError):
        return (
            f"GPU {ranks.device.index} has too little memory ({told(error)}). Fix: lower micro_batch_tokens under "
            "hardware, or set activation_checkpointing: full and reshard_after_forward: true there"
        )
    fix = "raise memory_gb under hardware, or lower micro_batch_tokens there"
    return f"main memory is used up ({told(error)}). Fix: {fix}"


def _say(who: str, what: str) -> None:
    print(f"{who}: {what}", file=sys.stderr)
