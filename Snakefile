"""Raw datasets in, AmberChat and AmberSafe out.

snakemake -n                       what would run, and why
snakemake --profile slurm          the published recipe on a GPU cluster
snakemake --configfile demo/config.yaml --cores 2     the same at small scale on a laptop
"""

import os
import sys

# Threads that wait for each other sleep instead of spinning. Several jobs on one machine, or several processes of one
# training, otherwise hold the cores that the others need: a training beside another job took four times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

sys.path.insert(0, f"{workflow.basedir}/scripts")


if "submitted" not in config:

    configfile: "config.yaml"
    configfile: "slurm/site.yaml"


include: "rules/common.smk"
include: "rules/trainings.smk"
include: "rules/cluster.smk"
include: "rules/models.smk"
include: "rules/acquire.smk"
include: "rules/amberchat.smk"
include: "rules/ambersafe.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        rules.report.input,
        rules.amberchat.input,
        rules.ambersafe_sft.input,
        rules.ambersafe.input,


check_targets(command_line())
prepare(command_line())


onstart:
    decide_on_stale_trainings()
    if workflow.non_local_exec:
        submit_with_settings()
