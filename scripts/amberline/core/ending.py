"""How programs end when something is wrong: one message with the place and the fix, never a traceback."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amberline.core.files import free_bytes

FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def one_message(program: str, *expected: type[Exception]) -> Iterator[None]:
    """End the program with one message for what is `expected`, for any error of the system, and out of memory."""
    try:
        yield
    except expected as error:
        sys.exit(f"{program}: {error}")
    except OSError as error:
        sys.exit(f"{program}: {explain(error)}")
    except MemoryError as error:
        what = f"main memory is used up ({error})" if str(error) else "main memory is used up"
        sys.exit(f"{program}: {what}. Fix: raise memory_gb of that stage, or use a machine with more memory")


def explain(error: OSError) -> str:
    """An error of the operating system as a message: where it was, what is wrong, the fix."""
    # Of two files, a full disk is that of the second: where a copy goes.
    file = error.filename if error.filename2 is None or error.errno not in FULL else error.filename2
    place = "a file" if file is None else str(file)
    what = error.strerror or " ".join(str(error).split()) or type(error).__name__
    if error.errno in FULL:
        free = f"{free_bytes(Path(place)):,} bytes are free"
        return (
            f"{place}: {what} ({free}). Fix: free some space there (scripts/unused.py lists what no recipe names), or "
            "set `results` to a folder elsewhere."
        )
    if error.errno in REFUSED:
        return f"{place}: {what}. Fix: give yourself the right to read and write there, or use another folder."
    if error.errno == errno.ENOENT:
        return f"{place}: {what}. Fix: check the path."
    return f"{place}: {what}. Fix: check that path and its disk, then run this again."
