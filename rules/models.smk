"""Models: acquired or made, trained from each other, exported, and described."""

from amberline.recipe import nodes as kinds
from amberline.report.compared import Compared
from amberline.report.departures import departures_of

COMPARED = Compared(RECIPE)
WITH_POLICY = {name for name in RECIPE.trained if RECIPE.tokens(name).of_pairs}  # as the DPO reference implementation


def model_misfit(wildcards):
    """Why the model that is there is not the one that is asked for."""
    manifest = manifest_of_made(paths.model(wildcards.model))
    return manifest and find_model_misfit(RECIPE.node(wildcards.model), manifest)


rule acquire_model:
    output:
        made(paths.model("{model}")),
    log:
        result(paths.log("acquire_model", "{model}")),
    wildcard_constraints:
        model=alternatives(RECIPE.models(kinds.PretrainedModel)),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **acquired("acquire_model.py", paths.model("{model}"), misfit=model_misfit),
        source=lambda wildcards: Untracked(RECIPE.pretrained(wildcards.model).model_dump(mode="json")),
        model=lambda wildcards: Untracked(place(paths.model(wildcards.model))),
    shell:
        "{params.tell} python {params.scripts:q}/acquire_model.py --source {params.source:q} --output {params.model:q} 2>&1 | tee {log:q}"


rule make_tiny_model:
    input:
        texts=lambda wildcards: raws(RECIPE.node(wildcards.model).texts),
    output:
        made(paths.model("{model}")),
    log:
        result(paths.log("make_tiny_model", "{model}")),
    wildcard_constraints:
        model=alternatives(RECIPE.models(kinds.TinyStandIn)),
    conda:
        ENVIRONMENT
    resources:
        **data_stage(),
    params:
        **depends(
            reading("make_tiny_model.py", lambda wildcards: RECIPE.node(wildcards.model).texts), paths.model("{model}")
        ),
        settings=lambda wildcards: settings(RECIPE.tiny_settings(wildcards.model)),
        texts=lambda wildcards, input: repeated("--conversations", input.texts),
        model=lambda wildcards: Untracked(place(paths.model(wildcards.model))),
    shell:
        "{params.tell} python {params.scripts:q}/make_tiny_model.py {params.texts:q} --settings {params.settings:q} --output {params.model:q}"
        " 2>&1 | tee {log:q}"


def scores_of(wildcards):
    """Log-probabilities of a reference, as they are asked for."""
    return RECIPE.all_scores[wildcards.scores]


rule score_reference:
    input:
        model=lambda wildcards: made(paths.model(scores_of(wildcards).model)),
        tokens=lambda wildcards: made(paths.tokens(scores_of(wildcards).tokens.name)),
    output:
        made(paths.scores("{scores}")),
    log:
        result(paths.log("score_reference", "{scores}")),
    wildcard_constraints:
        scores=alternatives(list(RECIPE.all_scores)),
    conda:
        ENVIRONMENT
    threads: cores("score_reference")
    resources:
        **model_stage("score_reference"),
    params:
        **depends("score_reference.py", paths.scores("{scores}")),
        # As the policy computes them, so that both agree before the first step.
        **launched("score_reference"),
        settings=lambda wildcards: f"--precision {scores_of(wildcards).precision}{' --tf32' * scores_of(wildcards).tf32}",
        files=files_of,
        scores=lambda wildcards: Untracked(place(paths.scores(wildcards.scores))),
    shell:
        "{params.tell} {params.launch} {params.scripts:q}/score_reference.py --model {params.files.model:q} --tokens {params.files.tokens:q}"
        " {params.settings} --hardware {params.hardware:q} --reference {params.scores:q} 2>&1 | tee {log:q}"


rule train:
    input:
        model=lambda wildcards: made(paths.model(RECIPE.node(wildcards.model).from_)),
        tokens=lambda wildcards: made(paths.tokens(RECIPE.tokens(wildcards.model).name)),
        reference=lambda wildcards: reference_of(wildcards.model, "train"),
        # What is watched on the way changes no weights.
        heldout=lambda wildcards: ancient(made(paths.tokens(RECIPE.tokens(wildcards.model, "heldout").name))),
        heldout_reference=lambda wildcards: list(map(ancient, reference_of(wildcards.model, "heldout"))),
    output:
        run=result(paths.run("{model}")),
        manifest=made(paths.run("{model}")),
        metrics=result(paths.metrics("{model}")),
    log:
        result(paths.log("train", "{model}")),
    wildcard_constraints:
        model=alternatives(list(dict.fromkeys(RECIPE.runs.values()))),
    conda:
        ENVIRONMENT
    threads: cores("train")
    resources:
        **model_stage("train"),
    params:
        **trained(),
        **launched("train"),
        files=files_of,
        objective=lambda wildcards: Untracked(RECIPE.node(wildcards.model).train),
        reference=lambda wildcards, input: repeated("--reference", input.reference),
        heldout_reference=lambda wildcards, input: repeated("--heldout-reference", input.heldout_reference),
    shell:
        "{params.tell} {params.launch} {params.scripts:q}/train.py --objective {params.objective:q} --name {wildcards.model:q}"
        " --model {params.files.model:q} --tokens {params.files.tokens:q} {params.reference:q}"
        " --heldout {params.files.heldout:q} {params.heldout_reference:q}"
        " --settings {params.settings:q} --runtime {params.runtime:q} --packages {params.packages:q}"
        " --hardware {params.hardware:q} --checkpoints {params.checkpoints:q} --run {output.run:q}"
        " --metrics {output.metrics:q} 2>&1 | tee {log:q}"


rule export:
    input:
        run=lambda wildcards: result(paths.run(RECIPE.runs[wildcards.model])),
        model=lambda wildcards: made(paths.model(RECIPE.node(wildcards.model).from_)),
        heldout=lambda wildcards: chosen_on(wildcards.model),
    output:
        made(paths.model("{model}")),
    log:
        result(paths.log("export", "{model}")),
    wildcard_constraints:
        model=alternatives(RECIPE.trained),
    conda:
        ENVIRONMENT
    resources:
        **data_stage(),
    params:
        **depends(
            lambda wildcards: with_template("export.py", RECIPE.node(wildcards.model).template), paths.model("{model}")
        ),
        settings=lambda wildcards: export_settings(wildcards.model),
        files=files_of,
        heldout=lambda wildcards, input: repeated("--heldout", input.heldout),
        model=lambda wildcards: Untracked(place(paths.model(wildcards.model))),
    shell:
        "{params.tell} python {params.scripts:q}/export.py --run {input.run:q} --base {params.files.model:q} {params.heldout:q}"
        " --settings {params.settings:q} --output {params.model:q} 2>&1 | tee {log:q}"


rule write_card:
    input:
        run=lambda wildcards: result(paths.run(RECIPE.runs[wildcards.model])),
        run_manifest=lambda wildcards: made(paths.run(RECIPE.runs[wildcards.model])),
        model=made(paths.model("{model}")),
        raw=lambda wildcards: raws(sources_of_model(wildcards.model)),
        base=lambda wildcards: made(paths.model(RECIPE.root(wildcards.model))),
    output:
        card=result(paths.card("{model}")),
        manifest=made(paths.card("{model}")),
    log:
        result(paths.log("write_card", "{model}")),
    wildcard_constraints:
        model=alternatives(RECIPE.trained),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **depends(
            lambda wildcards: with_template("write_card.py", RECIPE.node(wildcards.model).template),
            paths.card("{model}"),
        ),
        settings=lambda wildcards: card_settings(wildcards.model),
        kept=lambda wildcards: kept(RECIPE.runs[wildcards.model]),
        files=files_of,
        raw=lambda wildcards, input: repeated("--raw", input.raw),
    shell:
        "{params.tell} python {params.scripts:q}/write_card.py --model {params.files.model:q} --run {input.run:q} {params.raw:q}"
        " --base {params.files.base:q} --settings {params.settings:q} --output {output.card:q} 2>&1 | tee {log:q}"


def reference_of(model, part):
    """The manifest of the reference's scores that a training needs; none if it needs none."""
    scores = RECIPE.scores(model, part)
    return [made(paths.scores(scores.name))] if scores else []


def chosen_on(model):
    """The manifest of the held-out rows by whose loss the exported checkpoint is chosen; none if it is not so chosen."""
    best = RECIPE.exported(model).export == "best"
    return [made(paths.tokens(RECIPE.tokens(model, "heldout").name))] if best else []


def export_settings(model):
    """What determines an exported model, and the settings that its training must have had."""
    exported, training = RECIPE.exported(model), RECIPE.training(model)
    return canonical(
        {
            "dtype": exported.export_dtype,
            "export": exported.export,
            "evaluation": training.evaluation.model_dump() if exported.export == "best" else None,
            "template": RECIPE.node(model).template,
            "policy": model in WITH_POLICY,
            "training": json.loads(settings(training)),
        }
    )


def sources_of_model(model):
    """The sources that went into a model."""
    return [name for name in RECIPE.nodes.sources if name in RECIPE.uses(model)]


def card_settings(model):
    """What a model's card says: whose variant it is, its sources, and how it departs from the published recipe."""
    uses = RECIPE.uses(model)
    return canonical(
        {
            "name": COMPARED.title(model),
            "variant": COMPARED.told_in_card(model),
            "sources": described(uses),
            "deviations": departures_of(COMPARED, uses),
        }
    )
