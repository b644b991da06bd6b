"""Whether the environment that was just installed is for GPUs, and this machine's driver fits it. Run by install.sh."""

import sys

import torch

from amberline.cluster.machine import driver_cuda, old_driver

if torch.version.cuda is None:
    sys.exit(
        f"The installed torch {torch.__version__} has no CUDA. Fix: see that pip asks PyPI "
        "(.venv/bin/python -m pip config list), and give the same command again"
    )
print(f"torch {torch.__version__} with CUDA {torch.version.cuda}")
# Only warnings: the machine that installs, a login node, need not be the one that trains.
if driver_cuda() is None:
    print("No NVIDIA driver is here: GPUs can only be used on machines that have one", file=sys.stderr)
elif fault := old_driver():
    print(f"Warning: {fault}", file=sys.stderr)
