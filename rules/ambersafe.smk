"""From preferences to AmberSafe: safe pairs, tokens, supervised finetune, reference scores, DPO, export."""


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
        **depends("select_safe_pairs.py", "data/safe-pairs-{part}.json"),
        settings=result(CONFIG.ambersafe.pairs),
    shell:
        "python scripts/select_safe_pairs.py --rows {RESULTS:q}/raw/pku_{wildcards.part}.jsonl.xz"
        " --settings {params.settings:q} --pairs {output.pairs:q} --jsonl {output.jsonl:q}"
        " --funnel {output.funnel:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule tokenise_preferences:
    input:
        pairs=made("data/safe-pairs-{part}.json"),
        model=made("models/base"),
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
        **depends("tokenise_preferences.py", "tokens/sft-{part}", "tokens/dpo-{part}"),
        settings=result(CONFIG.ambersafe.tokens),
    shell:
        "python scripts/tokenise_preferences.py --pairs {RESULTS:q}/data/safe-pairs-{wildcards.part}.json"
        " --model {RESULTS:q}/models/base --settings {params.settings:q} --processes {threads}"
        " --sft-tokens {RESULTS:q}/tokens/sft-{wildcards.part} --pair-tokens {RESULTS:q}/tokens/dpo-{wildcards.part}"
        " --funnel {output.funnel:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule finetune_preferred:
    input:
        model=made("models/amberchat"),
        tokens=made("tokens/sft-train"),
        heldout=ancient(made("tokens/sft-test")),
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
        **trained("finetune_preferred"),
    shell:
        "{LAUNCH[sft]}{RESULTS:q}/checkpoints -- scripts/train.py --objective sft --name sft --model {RESULTS:q}/models/amberchat"
        " --tokens {RESULTS:q}/tokens/sft-train --heldout {RESULTS:q}/tokens/sft-test"
        " --settings {params.settings:q} --runtime {params.runtime:q} --packages {params.packages:q}"
        " --hardware {HARDWARE[sft]:q}"
        " --checkpoints {RESULTS:q}/checkpoints --run {output.run:q} --metrics {output.metrics:q} 2>&1 | tee {log:q}"


rule export_ambersafe_sft:
    input:
        run=f"{RESULTS}/training/sft/run.json",
        model=made("models/amberchat"),
    output:
        made("models/ambersafe-sft"),
    log:
        f"{RESULTS}/logs/export_ambersafe_sft.log",
    conda:
        ENVIRONMENT
    resources:
        **data_stage(),
    params:
        **depends("export_model.py", "models/ambersafe-sft"),
        settings=export_settings(CONFIG.ambersafe.sft, CONFIG.ambersafe.tokens.template, policy=True),
    shell:
        "python scripts/export_model.py --run {RESULTS:q}/training/sft/run.json --base {RESULTS:q}/models/amberchat"
        " --settings {params.settings:q} --output {RESULTS:q}/models/ambersafe-sft 2>&1 | tee {log:q}"


rule card_of_ambersafe_sft:
    input:
        run=f"{RESULTS}/training/sft/run.json",
        run_manifest=made("training/sft/run.json"),
        model=made("models/ambersafe-sft"),
        raw=[made(path) for path in raw_files(SFT_PARTS)],
        base=made("models/base"),
    output:
        card=card("ambersafe-sft"),
        manifest=made("models/ambersafe-sft/README.md"),
    log:
        f"{RESULTS}/logs/card_of_ambersafe_sft.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **depends("write_card.py", "models/ambersafe-sft/README.md"),
        settings=card_settings("AmberSafe-SFT", SFT_PARTS),
        kept=lambda wildcards: kept("finetune_preferred", wildcards),
        model=f"{RESULTS}/models/ambersafe-sft",
        raw=raw_options(SFT_PARTS),
    shell:
        WRITE_CARD


rule score_reference:
    input:
        model=made("models/ambersafe-sft"),
        tokens=made("tokens/dpo-{part}"),
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
        **depends("score_reference.py", "tokens/reference-{part}"),
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
        heldout=ancient(made("tokens/dpo-test")),
        heldout_reference=ancient(made("tokens/reference-test")),
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
        **trained("train_dpo"),
    shell:
        "{LAUNCH[dpo]}{RESULTS:q}/checkpoints{wildcards.variant} -- scripts/train.py --objective dpo --name dpo --model {RESULTS:q}/models/ambersafe-sft"
        " --tokens {RESULTS:q}/tokens/dpo-train --reference {RESULTS:q}/tokens/reference-train"
        " --heldout {RESULTS:q}/tokens/dpo-test --heldout-reference {RESULTS:q}/tokens/reference-test"
        " --settings {params.settings:q} --runtime {params.runtime:q} --packages {params.packages:q}"
        " --hardware {HARDWARE[dpo]:q}"
        " --checkpoints {RESULTS:q}/checkpoints{wildcards.variant} --run {output.run:q} --metrics {output.metrics:q}"
        " 2>&1 | tee {log:q}"


rule export_ambersafe:
    input:
        run=f"{RESULTS}/training/dpo{{variant}}/run.json",
        model=made("models/ambersafe-sft"),
    output:
        made("models/ambersafe{variant}"),
    log:
        f"{RESULTS}/logs/export_ambersafe{{variant}}.log",
    conda:
        ENVIRONMENT
    resources:
        **data_stage(),
    params:
        **depends("export_model.py", "models/ambersafe{variant}"),
        settings=lambda wildcards: export_settings(
            VARIANTS[wildcards.variant], CONFIG.ambersafe.tokens.template, policy=True
        ),
    shell:
        "python scripts/export_model.py --run {RESULTS:q}/training/dpo{wildcards.variant}/run.json"
        " --base {RESULTS:q}/models/ambersafe-sft"
        " --settings {params.settings:q} --output {RESULTS:q}/models/ambersafe{wildcards.variant} 2>&1 | tee {log:q}"


rule card_of_ambersafe:
    input:
        run=f"{RESULTS}/training/dpo{{variant}}/run.json",
        run_manifest=made("training/dpo{variant}/run.json"),
        model=made("models/ambersafe{variant}"),
        raw=[made(path) for path in raw_files(DPO_PARTS)],
        base=made("models/base"),
    output:
        card=card("ambersafe{variant}"),
        manifest=made("models/ambersafe{variant}/README.md"),
    log:
        f"{RESULTS}/logs/card_of_ambersafe{{variant}}.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **depends("write_card.py", "models/ambersafe{variant}/README.md"),
        settings=lambda wildcards: card_settings(
            f"AmberSafe{wildcards.variant}", DPO_PARTS, variant_deviations(wildcards.variant)
        ),
        kept=lambda wildcards: kept("train_dpo", wildcards),
        model=f"{RESULTS}/models/ambersafe{{variant}}",
        raw=raw_options(DPO_PARTS),
    shell:
        WRITE_CARD


rule safe_pairs:
    input:
        made("data/safe-pairs-train.json"),
        made("data/safe-pairs-test.json"),


rule ambersafe_sft:
    input:
        made("models/ambersafe-sft"),
        card("ambersafe-sft"),


rule ambersafe:
    input:
        [made(f"models/ambersafe{variant}") for variant in VARIANTS],
        [card(f"ambersafe{variant}") for variant in VARIANTS],
