"""Metrics of the finished models on data that none of them was trained on."""

from amberline.evaluations.registry import evaluation_file


def data_measured(evaluation):
    """What an evaluation reads: a token folder, or a file of prompts."""
    tokens = RECIPE.evaluation_tokens(evaluation)
    return made(paths.tokens(tokens.name) if tokens else RECIPE.prompts_of(evaluation))


def scores_measured(evaluation):
    """The reference's scores that an evaluation needs; none if it needs none."""
    scores = RECIPE.evaluation_scores(evaluation)
    return [made(paths.scores(scores.name))] if scores else []


rule evaluate:
    input:
        model=made(paths.model("{model}")),
        data=lambda wildcards: data_measured(wildcards.evaluation),
        reference=lambda wildcards: scores_measured(wildcards.evaluation),
    output:
        metrics=result(paths.evaluation("{evaluation}", "{model}")),
        manifest=made(paths.evaluation("{evaluation}", "{model}")),
    log:
        result(paths.log("evaluate", "{evaluation}", "{model}")),
    wildcard_constraints:
        evaluation=alternatives(list(RECIPE.nodes.evaluations)),
        model=alternatives(list(RECIPE.nodes.models)),
    conda:
        ENVIRONMENT
    threads: cores("evaluate")
    resources:
        **model_stage("evaluate"),
    params:
        **depends(
            lambda wildcards: with_registered("evaluate.py", evaluation_file(RECIPE.kind_of(wildcards.evaluation))),
            paths.evaluation("{evaluation}", "{model}"),
        ),
        **launched("evaluate"),
        settings=lambda wildcards: settings(RECIPE.evaluation_settings(wildcards.evaluation)),
        files=files_of,
        kind=lambda wildcards: Untracked(RECIPE.kind_of(wildcards.evaluation)),
        reference=lambda wildcards, input: repeated("--reference", input.reference),
    shell:
        "{params.tell} {params.launch} {params.scripts:q}/evaluate.py --evaluation {params.kind:q} --model {params.files.model:q}"
        " --data {params.files.data:q} {params.reference:q} --settings {params.settings:q}"
        " --hardware {params.hardware:q} --output {output.metrics:q} 2>&1 | tee {log:q}"
