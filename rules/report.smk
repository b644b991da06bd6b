"""One page that shows the whole line, every figure in it read from a file."""

from types import SimpleNamespace

FUNNELS = [
    "mix",
    "split",
    "tokenise_conversations",
    "split-heldout",
    "tokenise_conversations-heldout",
    "select_safe_pairs-train",
    "select_safe_pairs-test",
    "tokenise_preferences-train",
    "tokenise_preferences-test",
]


rule write_report:
    input:
        funnels=expand(f"{RESULTS}/funnels/{{stage}}.json", stage=FUNNELS),
        comparison=f"{RESULTS}/funnels/split-comparison.json",
        tokens=[made("tokens/conversations"), made("tokens/sft-train"), made("tokens/dpo-train")],
        metrics=expand(f"{RESULTS}/training/{{stage}}/metrics.jsonl", stage=["amberchat", "sft", "dpo"]),
        evaluation=rules.evaluation.input,
        models=[made("models/amberchat"), made("models/ambersafe")],
        runs=expand(made("training/{stage}/run.json"), stage=["amberchat", "sft", "dpo"]),
        template="scripts/amberline/report/report.html.jinja",
    output:
        page=report(f"{RESULTS}/report/index.html", category="Amberline"),
        manifest=made("report/index.html"),
        # What Slurm's accounts say now. They are no input: how long a job took is no reason to write a report anew.
        jobs=f"{RESULTS}/report/jobs.json",
    log:
        f"{RESULTS}/logs/write_report.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **depends("write_report.py", "report/index.html"),
        settings=canonical(
            {
                "deviations": DEVIATIONS,
                "configuration": CONFIG.of(Kind.RESULT),
                "sources": sources_of(DPO_PARTS),
            }
        ),
        kept=lambda wildcards: canonical([kept(rule, SimpleNamespace(variant="")) for rule in OBJECTIVE_OF]),
    shell:
        "python scripts/write_report.py --results {RESULTS:q} --lock {LOCK:q} --settings {params.settings:q}"
        " --jobs {output.jobs:q} --output {output.page:q} 2>&1 | tee {log:q}"


rule report:
    input:
        f"{RESULTS}/report/index.html",
