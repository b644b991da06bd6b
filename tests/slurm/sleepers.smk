"""Jobs that sleep instead of training: what happens around jobs can be seen in seconds.

config: scripts (ours), seconds (of each job), jobs (their number), fails (a command that each job runs at its end).
"""

import atexit
import sys
from pathlib import Path

sys.path.insert(0, config["scripts"])

from amberline.cluster.claim import ClaimError, claim
from amberline.cluster.executor import watch_jobs
from amberline.cluster.ledger import Stages
from amberline.cluster.slurm import SlurmError
from snakemake.exceptions import WorkflowError

RESULTS = Path(config.get("results", "results"))

if workflow.is_main_process:
    if "--executor" not in sys.argv:
        watch_jobs(Stages(RESULTS, RESULTS / "logs/slurm-jobs.jsonl", lambda job: None, lambda job: "data_hardware"))
    try:
        atexit.register(claim(RESULTS, lambda text: print(text, file=sys.stderr)).release)
    except (ClaimError, SlurmError) as error:
        raise WorkflowError(str(error)) from None


rule all:
    input:
        [f"{RESULTS}/{number}.txt" for number in range(int(config.get("jobs", 1)))],


rule sleep:
    output:
        f"{RESULTS}/{{number}}.txt",
    log:
        f"{RESULTS}/logs/sleep-{{number}}.log",
    threads: int(config.get("cores", 1))
    resources:
        slurm_partition=config.get("partition", "cpu"),
        slurm_account=config.get("account"),
        mem_mb=int(config.get("memory_gb", 1)) * 1000,
        runtime=int(float(config.get("hours", 1)) * 60),
        nodes=int(config.get("nodes", 1)),
        slurm_extra="--open-mode=append",
    shell:
        "(sleep {config[seconds]}; {config[ends]}; echo slept > {output}) 2>&1 | tee {log}"
