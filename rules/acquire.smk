"""The raw files and the base model: downloaded or local, and verified."""


wildcard_constraints:
    source="sharegpt|evol_instruct|pku_train|pku_test",
    suffix="json|jsonl.xz",


def source_settings(wildcards):
    """A source's settings, and the content of its local file: that may change without a newer modification time."""
    source = getattr(CONFIG.sources, wildcards.source)
    return settings(source, content=sampled_digest(Path(source.path)) if source.path else None)


rule acquire:
    input:
        code=code("acquire.py"),
        lock=LOCK,
    output:
        file=f"{RESULTS}/raw/{{source}}.{{suffix}}",
        manifest=made("raw/{source}.{suffix}"),
    log:
        f"{RESULTS}/logs/acquire-{{source}}.{{suffix}}.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        source=source_settings,
    shell:
        "python scripts/acquire.py --name {wildcards.source} --source {params.source:q} --output {output.file:q}"
        " 2>&1 | tee {log:q}"


if CONFIG.base_model.tiny:

    rule make_tiny_base:
        input:
            made("raw/sharegpt.json"),
            made("raw/evol_instruct.json"),
            code=code("make_tiny_base.py"),
            lock=LOCK,
        output:
            made("models/base"),
        log:
            f"{RESULTS}/logs/make_tiny_base.log",
        conda:
            ENVIRONMENT
        resources:
            **data_stage(),
        params:
            settings=settings(CONFIG.base_model.tiny),
        shell:
            "python scripts/make_tiny_base.py --conversations {RESULTS:q}/raw/sharegpt.json"
            " --conversations {RESULTS:q}/raw/evol_instruct.json --settings {params.settings:q}"
            " --output {RESULTS:q}/models/base 2>&1 | tee {log:q}"

else:

    rule acquire_base_model:
        input:
            code=code("acquire_model.py"),
            lock=LOCK,
        output:
            made("models/base"),
        log:
            f"{RESULTS}/logs/acquire_base_model.log",
        localrule: True
        conda:
            ENVIRONMENT
        params:
            source=settings(CONFIG.base_model),
        shell:
            "python scripts/acquire_model.py --source {params.source:q} --output {RESULTS:q}/models/base"
            " 2>&1 | tee {log:q}"
