"""What kind of error something is, and how it is told."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that is not there: of a GPU, or main memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # What CUDA's libraries and torch's allocator for the CPU raise has no class of its own.
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def told(error: BaseException) -> str:
    """An error's class and the first line of what it says."""
    name = type(error).__name__
    return f"{name}: {first_line(error)}" if str(error).strip() else name


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its class if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
