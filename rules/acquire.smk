"""The raw files and the base model: downloaded or local, and verified."""

from amberline.core.manifests import read_manifest
from amberline.hub.origins import find_misfit, find_model_misfit


wildcard_constraints:
    source="sharegpt|evol_instruct|pku_train|pku_test",
    suffix="json|jsonl.xz",


def source_misfit(wildcards):
    """Why the raw file that is there is not the one that is asked for."""
    manifest = manifest_of_made(f"raw/{wildcards.source}.{wildcards.suffix}")
    return manifest and find_misfit(getattr(CONFIG.sources, wildcards.source), manifest["facts"])


def model_misfit(wildcards):
    """Why the base model that is there is not the one that is asked for."""
    manifest = manifest_of_made("models/base")
    return manifest and find_model_misfit(CONFIG.base_model, manifest)


def manifest_of_made(path):
    """The manifest of something made; nothing if it is not there."""
    return read_manifest(Path(RESULTS, path)) if Path(made(path)).exists() else None


def acquired(program, path, misfit):
    """As `depends`, without packages: what is acquired is verified, and fetching it again may take hours."""
    params = depends(program, path, misfit=misfit)
    return {name: param for name, param in params.items() if name != "packages"}


rule acquire:
    output:
        file=f"{RESULTS}/raw/{{source}}.{{suffix}}",
        manifest=made("raw/{source}.{suffix}"),
    log:
        f"{RESULTS}/logs/acquire-{{source}}.{{suffix}}.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **acquired("acquire.py", "raw/{source}.{suffix}", misfit=source_misfit),
        source=lambda wildcards: Untracked(getattr(CONFIG.sources, wildcards.source).model_dump(mode="json")),
    shell:
        "python scripts/acquire.py --name {wildcards.source} --source {params.source:q} --output {output.file:q}"
        " 2>&1 | tee {log:q}"


if CONFIG.base_model.tiny:

    rule make_tiny_base:
        input:
            made("raw/sharegpt.json"),
            made("raw/evol_instruct.json"),
        output:
            made("models/base"),
        log:
            f"{RESULTS}/logs/make_tiny_base.log",
        conda:
            ENVIRONMENT
        resources:
            **data_stage(),
        params:
            **depends("make_tiny_base.py", "models/base"),
            settings=result(CONFIG.base_model.tiny),
        shell:
            "python scripts/make_tiny_base.py --conversations {RESULTS:q}/raw/sharegpt.json"
            " --conversations {RESULTS:q}/raw/evol_instruct.json --settings {params.settings:q}"
            " --output {RESULTS:q}/models/base 2>&1 | tee {log:q}"

else:

    rule acquire_base_model:
        output:
            made("models/base"),
        log:
            f"{RESULTS}/logs/acquire_base_model.log",
        localrule: True
        conda:
            ENVIRONMENT
        params:
            **acquired("acquire_model.py", "models/base", misfit=model_misfit),
            source=Untracked(CONFIG.base_model.model_dump(mode="json")),
        shell:
            "python scripts/acquire_model.py --source {params.source:q} --output {RESULTS:q}/models/base"
            " 2>&1 | tee {log:q}"
