"""One page that shows the whole recipe, every figure in it read from a file."""

from amberline.report.contents import contents, evaluation_files, every
from amberline.report.departures import departures_of_base

PAGE = contents(RECIPE)
PLACE = place("")


rule report:
    input:
        funnels=[result(each["funnel"]) for each in every(PAGE["data"])],
        both_modes=[result(each["file"]) for each in every(PAGE["both_modes"])],
        metrics=[result(each["metrics"]) for each in every(PAGE["trainings"])],
        runs=[made(each["run"]) for each in every(PAGE["trainings"])],
        models=[made(each["folder"]) for each in every(PAGE["models"])],
        evaluations=[result(file) for file in evaluation_files(PAGE["evaluations"])],
        template=local(f"{SCRIPTS}/amberline/report/report.html.jinja"),
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
        settings=lambda wildcards: in_file(
            canonical({**PAGE, "deviations": departures_of_base(COMPARED), "sources": described(RECIPE.names)})
        ),
        results=Untracked(PLACE),
        lock=Untracked(LOCK),
        kept=lambda wildcards: canonical([kept(each["name"]) for each in every(PAGE["trainings"])]),
    shell:
        "{params.tell} python {params.scripts:q}/write_report.py --results {params.results:q} --lock {params.lock:q} --settings {params.settings:q}"
        " --jobs {output.jobs:q} --output {output.page:q} 2>&1 | tee {log:q}"
