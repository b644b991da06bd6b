"""Whether this machine can run what is asked of it: GPUs, the installed packages, and room on the disk.

For jobs that run here and now; what Slurm's nodes have is Slurm's to say.
"""

import ctypes
import importlib.metadata
import importlib.util
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from amberline.core.code import PACKAGES, locked
from amberline.core.files import free_bytes
from amberline.recipe.hardware import Hardware

# The driver that a CUDA version needs, by its first number.
NEEDED_DRIVER = {"12": "driver 525 or newer", "13": "driver 580 or newer"}


def missing_gpus(asked: Mapping[str, Hardware]) -> list[str]:
    """What jobs ask for, by their names, and this machine does not have: a line each."""
    on_gpus = {name: hardware for name, hardware in asked.items() if hardware.device == "cuda"}
    if not on_gpus:
        return []
    found = count_gpus()
    return [
        f"{name} asks for {hardware.ranks_per_node} GPUs (ranks_per_node), and this machine has {found or 'none'}"
        for name, hardware in on_gpus.items()
        if hardware.ranks_per_node > found
    ]


def count_gpus() -> int:
    """GPUs that the driver lists."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def old_driver() -> str | None:
    """Why the NVIDIA driver here is too old for the installed torch; None if it is not, or either is missing."""
    built, supported = torch_cuda(), driver_cuda()
    if built is None or supported is None or int(built.split(".")[0]) <= supported[0]:
        return None
    needed = NEEDED_DRIVER.get(built.split(".")[0], "a newer driver")
    version = importlib.metadata.version("torch").split("+")[0]
    return (
        f"the NVIDIA driver supports CUDA {supported[0]}.{supported[1]}, and the installed torch was built for CUDA "
        f"{built}, which needs {needed}. Fix: have the driver updated, or put PyTorch's own build for CUDA 12 in its "
        f"place: .venv/bin/python -m pip install torch=={version}+cu126 "
        "--extra-index-url https://download.pytorch.org/whl/cu126 (or cu128)"
    )


def torch_cuda() -> str | None:
    """The CUDA version that the installed torch was built with, read without the seconds that its import takes."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    version: str | None = runpy.run_path(str(Path(found.origin).with_name("version.py")))["cuda"]
    return version


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA version that the NVIDIA driver here supports; None where there is no driver.

    The driver's library is asked, as torch does: a newer one than the driver (cuda-compat) may be in its place.
    """
    number = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (AttributeError, OSError):
        return None
    return number.value // 1000, number.value % 1000 // 10


def other_kind(environment: str) -> str | None:
    """Why the installed torch is not of the kind that is asked for, "cpu" or "gpu"; None if it is, or none is there."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    installed = "cpu" if version.endswith("+cpu") else "gpu"
    return None if installed == environment else f"environment is {environment}, and the installed torch is {version}"


def other_versions(lock: Path) -> list[str]:
    """Installed packages that can change results, of another version than in the lock: `torch 2.13 (lock: 2.14)`."""
    pinned = locked(lock)
    names = {pattern for patterns in PACKAGES.values() for pattern in patterns if re.fullmatch(r"[\w-]+", pattern)}
    found = []
    for name in sorted(names & pinned.keys()):
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if installed.split("+")[0] != pinned[name].split("+")[0]:
            found.append(f"{name} {installed} (lock: {pinned[name]})")
    return found


def too_little_room(folder: Path, needed: Iterable[int]) -> str | None:
    """Why the disk of a folder is too small for so many bytes; None if it is not."""
    asked, free = sum(needed), free_bytes(folder)
    if asked <= free:
        return None
    return f"{folder} needs about {asked / 1e9:,.0f} GB more, and {free / 1e9:,.0f} GB are free on its disk"
