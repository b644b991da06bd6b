"""Figures of the finished models on data that none of them was trained on."""

EVALUATED = ("base", "amberchat", "ambersafe-sft", *(f"ambersafe{variant}" for variant in VARIANTS))


wildcard_constraints:
    model="|".join(EVALUATED),


def measures(wildcards):
    """What is measured of a model; the rewards of a variant are in terms of its own beta."""
    dpo = VARIANTS.get(wildcards.model.removeprefix("ambersafe"), CONFIG.ambersafe.dpo)
    arithmetic = {"precision": dpo.precision, "tf32": dpo.tf32}
    return canonical({"pairs": CONFIG.evaluation.pairs, "beta": dpo.beta, **arithmetic})


rule evaluate:
    input:
        model=made("models/{model}"),
        conversations=made("tokens/conversations-heldout"),
        pairs=made("tokens/dpo-test"),
        reference=made("tokens/reference-test"),
    output:
        metrics=f"{RESULTS}/evaluation/{{model}}.json",
        manifest=made("evaluation/{model}.json"),
    log:
        f"{RESULTS}/logs/evaluate-{{model}}.log",
    conda:
        ENVIRONMENT
    threads: training_threads("evaluation")
    resources:
        **training_stage("evaluation"),
    params:
        **depends("evaluate.py", "evaluation/{model}.json"),
        settings=measures,
    shell:
        "{LAUNCH[evaluation]}{RESULTS:q}/checkpoints -- scripts/evaluate.py --model {RESULTS:q}/models/{wildcards.model}"
        " --conversations {RESULTS:q}/tokens/conversations-heldout --pairs {RESULTS:q}/tokens/dpo-test"
        " --reference {RESULTS:q}/tokens/reference-test --settings {params.settings:q}"
        " --hardware {HARDWARE[evaluation]:q} --output {output.metrics:q} 2>&1 | tee {log:q}"


rule sample_answers:
    input:
        models=[made(f"models/{model}") for model in ("amberchat", "ambersafe")],
        prompts=made("data/safe-pairs-test.json"),
    output:
        answers=f"{RESULTS}/evaluation/samples.json",
        manifest=made("evaluation/samples.json"),
    log:
        f"{RESULTS}/logs/sample_answers.log",
    conda:
        ENVIRONMENT
    resources:
        **single_process("evaluation"),
    params:
        **depends("sample_answers.py", "evaluation/samples.json"),
        settings=canonical({"prompts": CONFIG.evaluation.sample_prompts, "tokens": CONFIG.evaluation.sample_tokens}),
    shell:
        "python scripts/sample_answers.py --model {RESULTS:q}/models/amberchat --model {RESULTS:q}/models/ambersafe"
        " --prompts {RESULTS:q}/data/safe-pairs-test.json --settings {params.settings:q} --output {output.answers:q}"
        " 2>&1 | tee {log:q}"


rule evaluation:
    input:
        expand(f"{RESULTS}/evaluation/{{model}}.json", model=EVALUATED),
        f"{RESULTS}/evaluation/samples.json",
