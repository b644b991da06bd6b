"""From raw files to token folders: mix, chunk, select pairs, tokenize."""

from amberline.formats.registry import format_file
from amberline.recipe import nodes as kinds
from amberline.templates.registry import template_file

DATA_THREADS = RECIPE.around.data_hardware.processes


def raws(names):
    """The manifests of raw files."""
    return [made(RECIPE.raw(name)) for name in names]


def reading(program, sources):
    """Of a job, its program and the formats of the sources that it reads."""
    return lambda wildcards: with_registered(program, *map(format_file, RECIPE.formats(sources(wildcards))))


def sources_of(wildcards):
    """The sources of a dataset, or of a split of it."""
    return RECIPE.sources_of(wildcards.dataset, wildcards.get("part", ""))


rule mix:
    input:
        sources=lambda wildcards: raws(sources_of(wildcards)),
    output:
        mix=made(paths.data("{dataset}")),
        heldout=made(paths.data("{dataset}", "heldout")),
        funnel=result(paths.funnel("mix", "{dataset}")),
        rejects=result(paths.rejects("mix", "{dataset}")),
    log:
        result(paths.log("mix", "{dataset}")),
    wildcard_constraints:
        dataset=alternatives(RECIPE.datasets(kinds.Mix)),
    conda:
        ENVIRONMENT
    resources:
        **data_stage(),
    params:
        **depends(reading("mix.py", sources_of), paths.data("{dataset}"), paths.data("{dataset}", "heldout")),
        settings=lambda wildcards: settings(RECIPE.mix_settings(wildcards.dataset)),
        sources=lambda wildcards, input: repeated("--source", input.sources),
        made=files_made,
    shell:
        "{params.tell} python {params.scripts:q}/mix.py {params.sources:q} --settings {params.settings:q} --mix {params.made.mix:q}"
        " --heldout {params.made.heldout:q} --funnel {output.funnel:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule chunk:
    input:
        conversations=lambda wildcards: made(
            paths.data(RECIPE.node(wildcards.dataset).chunk, wildcards.part.removeprefix("-"))
        ),
        model=lambda wildcards: made(paths.model(RECIPE.root(RECIPE.node(wildcards.dataset).tokenizer))),
    output:
        chunks=made(paths.data("{dataset}{part}")),
        funnel=result(paths.funnel("chunk", "{dataset}{part}")),
        rejects=result(paths.rejects("chunk", "{dataset}{part}")),
        comparison=result(paths.both_modes("{dataset}{part}")),
    log:
        result(paths.log("chunk", "{dataset}{part}")),
    wildcard_constraints:
        dataset=alternatives(RECIPE.datasets(kinds.Chunk)),
        part="|-heldout",
    conda:
        ENVIRONMENT
    threads: DATA_THREADS
    resources:
        **data_stage(),
    params:
        **depends(
            lambda wildcards: with_template(
                "chunk_conversations.py", RECIPE.chunk_settings(wildcards.dataset).template
            ),
            paths.data("{dataset}{part}"),
        ),
        settings=lambda wildcards: settings(RECIPE.chunk_settings(wildcards.dataset)),
        files=files_of,
        made=files_made,
    shell:
        "{params.tell} python {params.scripts:q}/chunk_conversations.py --conversations {params.files.conversations:q}"
        " --model {params.files.model:q} --settings {params.settings:q} --processes {threads}"
        " --chunks {params.made.chunks:q} --funnel {output.funnel:q} --rejects {output.rejects:q}"
        " --comparison {output.comparison:q} 2>&1 | tee {log:q}"


rule select_pairs:
    input:
        rows=lambda wildcards: raws(sources_of(wildcards)),
        # Prompts that are in both parts are noted.
        trained_on=lambda wildcards: [made(paths.data(wildcards.dataset, "train"))] * (wildcards.part == "test"),
    output:
        pairs=made(paths.data("{dataset}", "{part}")),
        funnel=result(paths.funnel("select_pairs", "{dataset}-{part}")),
        rejects=result(paths.rejects("select_pairs", "{dataset}-{part}")),
    log:
        result(paths.log("select_pairs", "{dataset}-{part}")),
    wildcard_constraints:
        dataset=alternatives(RECIPE.datasets(kinds.Pairs)),
        part="train|test",
    conda:
        ENVIRONMENT
    resources:
        **data_stage(),
    params:
        **depends(reading("select_pairs.py", sources_of), paths.data("{dataset}", "{part}")),
        settings=lambda wildcards: settings(RECIPE.pairs_settings(wildcards.dataset, wildcards.part)),
        rows=lambda wildcards, input: repeated("--rows", input.rows),
        trained_on=lambda wildcards, input: repeated("--trained-on", input.trained_on),
        made=files_made,
        jsonl=lambda wildcards: Untracked(place(paths.pair_lines(wildcards.dataset, wildcards.part))),
    shell:
        "{params.tell} python {params.scripts:q}/select_pairs.py {params.rows:q} {params.trained_on:q} --settings {params.settings:q} --pairs {params.made.pairs:q}"
        " --jsonl {params.jsonl:q} --funnel {output.funnel:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"


def tokens_of(wildcards):
    """A token folder, as it is asked for."""
    return RECIPE.all_tokens[wildcards.tokens]


def tokenizing_program(wildcards):
    """Conversations and pairs are tokenized by programs of their own."""
    return "tokenize_pairs.py" if tokens_of(wildcards).of_pairs else "tokenize_conversations.py"


def with_template(program, template):
    """A program, and the template that it renders turns with."""
    return with_registered(program, template_file(template))


rule tokenize:
    input:
        rows=lambda wildcards: made(paths.data(tokens_of(wildcards).dataset, tokens_of(wildcards).part)),
        model=lambda wildcards: made(paths.model(tokens_of(wildcards).tokenizer)),
    output:
        manifest=made(paths.tokens("{tokens}")),
        funnel=result(paths.funnel("tokenize", "{tokens}")),
        rejects=result(paths.rejects("tokenize", "{tokens}")),
    log:
        result(paths.log("tokenize", "{tokens}")),
    wildcard_constraints:
        tokens=alternatives(list(RECIPE.all_tokens)),
    conda:
        ENVIRONMENT
    threads: DATA_THREADS
    resources:
        **data_stage(),
    params:
        **depends(
            lambda wildcards: with_template(tokenizing_program(wildcards), tokens_of(wildcards).settings.template),
            paths.tokens("{tokens}"),
        ),
        settings=lambda wildcards: settings(tokens_of(wildcards).settings),
        program=lambda wildcards: Untracked(tokenizing_program(wildcards)),
        files=files_of,
        tokens=lambda wildcards: Untracked(place(paths.tokens(wildcards.tokens))),
    shell:
        "{params.tell} python {params.scripts:q}/{params.program} --rows {params.files.rows:q} --model {params.files.model:q}"
        " --settings {params.settings:q} --processes {threads} --tokens {params.tokens:q} --funnel {output.funnel:q}"
        " --rejects {output.rejects:q} 2>&1 | tee {log:q}"
