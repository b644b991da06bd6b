"""Stand-ins for Slurm's commands."""

import stat
from pathlib import Path

# What sacct of Slurm 22.05 printed of small jobs: one on two nodes with four GPUs each, one that was put back into the
# queue, one that was cancelled, one out of time, one out of memory, one that ran for no second, one refused.
SACCT = """\
1|amberline_a|COMPLETED|9|00:05.839|36||billing=4,cpu=4,gres/gpu=8,mem=2000M,node=2
1.batch|batch|COMPLETED|9|00:00.019|18|12771328|cpu=2,gres/gpu=4,mem=1000M,node=1
1.0|bash|COMPLETED|8|00:05.820|32|328298496|cpu=4,gres/gpu=8,mem=2000M,node=2
2|amberline_a|REQUEUED|6|00:00.005|6||billing=1,cpu=1,mem=500M,node=1
2.batch|batch|CANCELLED|6|00:00.002|6|12361728|cpu=1,mem=500M,node=1
2.0|sleep|CANCELLED|5|00:00.002|5|1675264|cpu=1,mem=500M,node=1
3|amberline_a|CANCELLED by 0|6|00:00.003|6||billing=1,cpu=1,mem=500M,node=1
3.batch|batch|CANCELLED|6|00:00.002|6|12447744|cpu=1,mem=500M,node=1
3.0|sleep|CANCELLED|6|00:00.001|6|1724416|cpu=1,mem=500M,node=1
4|amberline_a|TIMEOUT|70|00:00.004|70||billing=1,cpu=1,mem=500M,node=1
4.batch|batch|CANCELLED|70|00:00.001|70|12509184|cpu=1,mem=500M,node=1
4.0|sleep|CANCELLED|70|00:00.002|70|1601536|cpu=1,mem=500M,node=1
5|amberline_a|FAILED|3|00:00.787|3||billing=1,cpu=1,mem=200M,node=1
5.batch|batch|FAILED|3|00:00.011|3|11059200|cpu=1,mem=200M,node=1
5.0|python3|CANCELLED by 0|2|00:00.775|2|257257472|cpu=1,mem=200M,node=1
6|amberline_a|FAILED|0|00:00.001|0||billing=1,cpu=1,mem=200M,node=1
6.batch|batch|FAILED|0|00:00.001|0||cpu=1,mem=200M,node=1
7|amberline_a|FAILED|0|00:00:00|0||
2|amberline_a|RUNNING|3|00:00:00|3||billing=1,cpu=1,mem=500M,node=1
2.batch|batch|RUNNING|3|00:00:00|3||cpu=1,mem=500M,node=1
2.0|sleep|RUNNING|3|00:00:00|3||cpu=1,mem=500M,node=1
"""


def program(folder: Path, name: str, text: str) -> None:
    """A stand-in for one command."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def printing(text: str) -> str:
    """A program that prints a text, whatever it is asked."""
    return f"#!/bin/sh\ncat <<'END'\n{text}END\n"


def slurm_of_stand_ins(folder: Path, **commands: str) -> None:
    """Stand-ins for all of Slurm: one job, number 7, that runs for ever. `commands` are shell texts of some of them."""
    texts = {
        "sbatch": "echo 7",
        "squeue": "echo '7|RUNNING|n|me|None|N/A|cpu|rule_sleep'",
        "scontrol": "echo 'MinJobAge = 300 sec'",
        "sinfo": "echo cpu; echo gpu",
        "sacct": "exit 0",
        "scancel": "exit 0",
    }
    for name, text in {**texts, **commands}.items():
        program(folder, name, f"#!/bin/sh\n{text}\n")
