"""Raw datasets in, finetuned models out: the graph of a recipe, config.yaml and what is put on top of it.

snakemake -n                       what would run, and why
snakemake --profile slurm          the published recipe on a GPU cluster
snakemake --configfile demo/config.yaml --cores 2     the same at small scale on a laptop
"""

import os
import sys

# Threads that wait for each other sleep instead of spinning. Several jobs on one machine, or several processes of one
# training, otherwise hold the cores that the others need: a training beside another job took four times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

sys.path.insert(0, f"{workflow.current_basedir}/scripts")


# `snakemake --lint` would have all functions in one file; those that the rules of one file alone use stand beside them.
include: "rules/common.smk"
include: "rules/plan.smk"
include: "rules/cluster.smk"
include: "rules/sources.smk"
include: "rules/datasets.smk"
include: "rules/trainings.smk"
include: "rules/models.smk"
include: "rules/evaluations.smk"
include: "rules/report.smk"


# Every node is a target by its name.
for node in RECIPE.names:

    rule:
        name:
            node
        input:
            targets_of(node),


# What is the same as another node is a target by its own name, too.
for name, there in RECIPE.other_names.items():

    rule:
        name:
            name
        input:
            targets_of(there),


rule evaluation:
    input:
        [target for name in RECIPE.nodes.evaluations for target in targets_of(name)],


rule all:
    default_target: True
    input:
        rules.report.output.page,
        rules.evaluation.input,
        [target for name in RECIPE.nodes.models for target in targets_of(name)],


check_targets(OPTIONS)
tell_of_variants()
tell_of_unused()
prepare(OPTIONS)


onstart:
    refuse_unexportable()
    decide_on_stale_trainings()
    if not workflow.non_local_exec and not workflow.touch:
        check_machine()
    if workflow.non_local_exec and not IS_MODULE:
        submit_with_settings()
