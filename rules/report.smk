"""One page that shows the whole recipe, every figure in it read from a file."""

FUNNELS = [paths.funnel(stage, name) for stage, name in RECIPE.data_stages]


rule report:
    input:
        funnels=[result(path) for path in FUNNELS],
        comparisons=[result(paths.comparison(name)) for name in RECIPE.chunked],
        tokens=[made(paths.tokens(RECIPE.tokens(model).name)) for model in RECIPE.runs],
        metrics=[result(paths.metrics(model)) for model in RECIPE.runs],
        runs=[made(paths.run(model)) for model in RECIPE.runs],
        evaluations=[result(path) for name in RECIPE.nodes.evaluations for path in RECIPE.files(name)],
        models=[made(paths.model(name)) for name in RECIPE.trained],
        template="scripts/amberline/report/report.html.jinja",
    output:
        page=report(result("report/index.html"), category="Amberline"),
        manifest=made("report/index.html"),
        # What Slurm's accounts say now. They are no input: how long a job took is no reason to write a report anew.
        jobs=result("report/jobs.json"),
    log:
        result(paths.log("report")),
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **depends("write_report.py", "report/index.html"),
        settings=canonical(page_settings(RECIPE, DEVIATIONS)),
        kept=lambda wildcards: canonical([kept(model) for model in RECIPE.runs]),
    shell:
        "python scripts/write_report.py --results {RESULTS:q} --lock {LOCK:q} --settings {params.settings:q}"
        " --jobs {output.jobs:q} --output {output.page:q} 2>&1 | tee {log:q}"
