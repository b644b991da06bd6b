"""From preferences to AmberSafe: safe pairs, tokens, supervised finetune, reference scores, DPO, export."""

# DPO trainings by the ending of their names: AmberSafe itself, and its variants, all from the same reference.
VARIANTS = {"": CONFIG.ambersafe.dpo} | {
    f"-{name}": CONFIG.ambersafe.variant(name) for name in CONFIG.ambersafe.variants
}


wildcard_constraints:
    # An empty pattern alone would be none to Snakemake.
    variant="|".join(["", *VARIANTS]),


def variant_deviations(variant):
    """Keys of a variant's recipe that differ from the published one, as if it had been configured by itself."""
    recipe = CONFIG.model_dump(mode="json")
    recipe["ambersafe"] |= {"dpo": VARIANTS[variant].model_dump(mode="json"), "variants": {}}
    return deviations(recipe, published=f"{workflow.basedir}/config.yaml")


rule select_safe_pairs:
    input:
        rows=made("raw/pku_{part}.jsonl.xz"),
        code=code("select_safe_pairs.py"),
        lock=LOCK,
    output:
        pairs=f"{RESULTS}/data/safe-pairs-{{part}}.json",
        jsonl=f"{RESULTS}/data/safe-pairs-{{part}}.jsonl",
        manifest=made("data/safe-pairs-{part}.json"),
        funnel=f"{RESULTS}/funnels/select_safe_pairs-{{part}}.json",
        rejects=f"{RESULTS}/rejects/select_safe_pairs-{{part}}.jsonl",
    log:
        f"{RESULTS}/logs/select_safe_pairs-{{part}}.log",
    conda:
        ENVIRONMENT
    resources:
        **data_stage(),
    params:
        settings=settings(CONFIG.ambersafe.pairs),
    shell:
        "python scripts/select_safe_pairs.py --rows {RESULTS:q}/raw/pku_{wildcards.part}.jsonl.xz"
        " --settings {params.settings:q} --pairs {output.pairs:q} --jsonl {output.jsonl:q}"
        " --funnel {output.funnel:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule tokenise_preferences:
    input:
        pairs=made("data/safe-pairs-{part}.json"),
        model=made("models/base"),
        code=code("tokenise_preferences.py"),
        lock=LOCK,
    output:
        sft=made("tokens/sft-{part}"),
        dpo=made("tokens/dpo-{part}"),
        funnel=f"{RESULTS}/funnels/tokenise_preferences-{{part}}.json",
        rejects=f"{RESULTS}/rejects/tokenise_preferences-{{part}}.jsonl",
    log:
        f"{RESULTS}/logs/tokenise_preferences-{{part}}.log",
    conda:
        ENVIRONMENT
    threads: CONFIG.data_hardware.processes
    resources:
        **data_stage(),
    params:
        settings=settings(CONFIG.ambersafe.tokens),
    shell:
        "python scripts/tokenise_preferences.py --pairs {RESULTS:q}/data/safe-pairs-{wildcards.part}.json"
        " --model {RESULTS:q}/models/base --settings {params.settings:q} --processes {threads}"
        " --sft-tokens {RESULTS:q}/tokens/sft-{wildcards.part} --pair-tokens {RESULTS:q}/tokens/dpo-{wildcards.part}"
        " --funnel {output.funnel:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule finetune_preferred:
    input:
        model=made("models/amberchat"),
        tokens=made("tokens/sft-train"),
        heldout=made("tokens/sft-test"),
        code=code("train_preferred.py"),
        lock=LOCK,
    output:
        run=f"{RESULTS}/training/sft/run.json",
        manifest=made("training/sft/run.json"),
        metrics=f"{RESULTS}/training/sft/metrics.jsonl",
    log:
        f"{RESULTS}/logs/finetune_preferred.log",
    conda:
        ENVIRONMENT
    threads: training_threads("sft")
    resources:
        **training_stage("sft"),
    params:
        settings=settings(CONFIG.ambersafe.sft),
    shell:
        "{LAUNCH[sft]}{RESULTS:q}/checkpoints -- scripts/train_preferred.py --model {RESULTS:q}/models/amberchat"
        " --tokens {RESULTS:q}/tokens/sft-train --heldout {RESULTS:q}/tokens/sft-test"
        " --settings {params.settings:q} --hardware {HARDWARE[sft]:q} --tracking {TRACKING:q}"
        " --checkpoints {RESULTS:q}/checkpoints --run {output.run:q} --metrics {output.metrics:q} 2>&1 | tee {log:q}"


rule export_ambersafe_sft:
    input:
        run=made("training/sft/run.json"),
        model=made("models/amberchat"),
        code=code("export_model.py"),
        lock=LOCK,
    output:
        made("models/ambersafe-sft"),
    log:
        f"{RESULTS}/logs/export_ambersafe_sft.log",
    conda:
        ENVIRONMENT
    resources:
        **data_stage(),
    params:
        settings=export_settings(
            "AmberSafe-SFT",
            CONFIG.ambersafe.sft.export_dtype,
            CONFIG.ambersafe.tokens.template,
            SFT_PARTS,
            policy=True,
        ),
    shell:
        "python scripts/export_model.py --run {RESULTS:q}/training/sft/run.json --base {RESULTS:q}/models/amberchat"
        " --settings {params.settings:q} --output {RESULTS:q}/models/ambersafe-sft 2>&1 | tee {log:q}"


rule score_reference:
    input:
        model=made("models/ambersafe-sft"),
        tokens=made("tokens/dpo-{part}"),
        code=code("score_reference.py"),
        lock=LOCK,
    output:
        made("tokens/reference-{part}"),
    log:
        f"{RESULTS}/logs/score_reference-{{part}}.log",
    conda:
        ENVIRONMENT
    threads: training_threads("reference")
    resources:
        **training_stage("reference"),
    params:
        # As the policy computes them, so that both agree before the first step.
        arithmetic=f"--precision {CONFIG.ambersafe.dpo.precision}{' --tf32' if CONFIG.ambersafe.dpo.tf32 else ''}",
    shell:
        "{LAUNCH[reference]}{RESULTS:q}/checkpoints -- scripts/score_reference.py --model {RESULTS:q}/models/ambersafe-sft"
        " --tokens {RESULTS:q}/tokens/dpo-{wildcards.part} {params.arithmetic}"
        " --hardware {HARDWARE[reference]:q} --reference {RESULTS:q}/tokens/reference-{wildcards.part}"
        " 2>&1 | tee {log:q}"


rule train_dpo:
    input:
        model=made("models/ambersafe-sft"),
        tokens=made("tokens/dpo-train"),
        reference=made("tokens/reference-train"),
        heldout=made("tokens/dpo-test"),
        heldout_reference=made("tokens/reference-test"),
        code=code("train_dpo.py"),
        lock=LOCK,
    output:
        run=f"{RESULTS}/training/dpo{{variant}}/run.json",
        manifest=made("training/dpo{variant}/run.json"),
        metrics=f"{RESULTS}/training/dpo{{variant}}/metrics.jsonl",
    log:
        f"{RESULTS}/logs/train_dpo{{variant}}.log",
    conda:
        ENVIRONMENT
    threads: training_threads("dpo")
    resources:
        **training_stage("dpo"),
    params:
        settings=lambda wildcards: settings(VARIANTS[wildcards.variant]),
    shell:
        "{LAUNCH[dpo]}{RESULTS:q}/checkpoints{wildcards.variant} -- scripts/train_dpo.py --model {RESULTS:q}/models/ambersafe-sft"
        " --tokens {RESULTS:q}/tokens/dpo-train --reference {RESULTS:q}/tokens/reference-train"
        " --heldout {RESULTS:q}/tokens/dpo-test --heldout-reference {RESULTS:q}/tokens/reference-test"
        " --settings {params.settings:q} --hardware {HARDWARE[dpo]:q} --tracking {TRACKING:q}"
        " --checkpoints {RESULTS:q}/checkpoints{wildcards.variant} --run {output.run:q} --metrics {output.metrics:q}"
        " 2>&1 | tee {log:q}"


rule export_ambersafe:
    input:
        run=made("training/dpo{variant}/run.json"),
        model=made("models/ambersafe-sft"),
        code=code("export_model.py"),
        lock=LOCK,
    output:
        made("models/ambersafe{variant}"),
    log:
        f"{RESULTS}/logs/export_ambersafe{{variant}}.log",
    conda:
        ENVIRONMENT
    resources:
        **data_stage(),
    params:
        settings=lambda wildcards: export_settings(
            f"AmberSafe{wildcards.variant}",
            VARIANTS[wildcards.variant].export_dtype,
            CONFIG.ambersafe.tokens.template,
            DPO_PARTS,
            policy=True,
            deviations=variant_deviations(wildcards.variant),
        ),
    shell:
        "python scripts/export_model.py --run {RESULTS:q}/training/dpo{wildcards.variant}/run.json"
        " --base {RESULTS:q}/models/ambersafe-sft"
        " --settings {params.settings:q} --output {RESULTS:q}/models/ambersafe{wildcards.variant} 2>&1 | tee {log:q}"


rule safe_pairs:
    input:
        made("data/safe-pairs-train.json"),
        made("data/safe-pairs-test.json"),


rule ambersafe_sft:
    input:
        made("models/ambersafe-sft"),


rule ambersafe:
    input:
        [made(f"models/ambersafe{variant}") for variant in VARIANTS],
