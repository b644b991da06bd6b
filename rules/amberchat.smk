"""From conversations to AmberChat: mix, split, tokenise, finetune, export."""


rule mix:
    input:
        sharegpt=made("raw/sharegpt.json"),
        evol=made("raw/evol_instruct.json"),
    output:
        mix=f"{RESULTS}/data/evol-mix.json",
        heldout=f"{RESULTS}/data/evol-mix-heldout.json",
        manifests=[made("data/evol-mix.json"), made("data/evol-mix-heldout.json")],
        funnel=f"{RESULTS}/funnels/mix.json",
        rejects=f"{RESULTS}/rejects/mix.jsonl",
    log:
        f"{RESULTS}/logs/mix.log",
    conda:
        ENVIRONMENT
    resources:
        **data_stage(),
    params:
        **depends("mix.py", "data/evol-mix.json", "data/evol-mix-heldout.json"),
        settings=result(CONFIG.amberchat.mix),
    shell:
        "python scripts/mix.py --sharegpt {RESULTS:q}/raw/sharegpt.json --evol {RESULTS:q}/raw/evol_instruct.json"
        " --settings {params.settings:q} --mix {output.mix:q} --heldout {output.heldout:q}"
        " --funnel {output.funnel:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule split:
    input:
        mix=made("data/evol-mix{holdout}.json"),
        model=made("models/base"),
    output:
        chunks=f"{RESULTS}/data/evol-mix{{holdout}}-split.json",
        manifest=made("data/evol-mix{holdout}-split.json"),
        funnel=f"{RESULTS}/funnels/split{{holdout}}.json",
        rejects=f"{RESULTS}/rejects/split{{holdout}}.jsonl",
        comparison=f"{RESULTS}/funnels/split{{holdout}}-comparison.json",
    log:
        f"{RESULTS}/logs/split{{holdout}}.log",
    conda:
        ENVIRONMENT
    threads: CONFIG.data_hardware.processes
    resources:
        **data_stage(),
    params:
        **depends("split.py", "data/evol-mix{holdout}-split.json"),
        settings=result(CONFIG.amberchat.split),
    shell:
        "python scripts/split.py --conversations {RESULTS:q}/data/evol-mix{wildcards.holdout}.json"
        " --model {RESULTS:q}/models/base --settings {params.settings:q} --processes {threads}"
        " --chunks {output.chunks:q} --funnel {output.funnel:q} --rejects {output.rejects:q}"
        " --comparison {output.comparison:q} 2>&1 | tee {log:q}"


rule tokenise_conversations:
    input:
        chunks=made("data/evol-mix{holdout}-split.json"),
        model=made("models/base"),
    output:
        manifest=made("tokens/conversations{holdout}"),
        funnel=f"{RESULTS}/funnels/tokenise_conversations{{holdout}}.json",
        rejects=f"{RESULTS}/rejects/tokenise_conversations{{holdout}}.jsonl",
    log:
        f"{RESULTS}/logs/tokenise_conversations{{holdout}}.log",
    conda:
        ENVIRONMENT
    threads: CONFIG.data_hardware.processes
    resources:
        **data_stage(),
    params:
        **depends("tokenise_conversations.py", "tokens/conversations{holdout}"),
        settings=result(CONFIG.amberchat.tokens),
    shell:
        "python scripts/tokenise_conversations.py"
        " --chunks {RESULTS:q}/data/evol-mix{wildcards.holdout}-split.json --model {RESULTS:q}/models/base"
        " --settings {params.settings:q} --processes {threads}"
        " --tokens {RESULTS:q}/tokens/conversations{wildcards.holdout} --funnel {output.funnel:q}"
        " --rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule finetune_amberchat:
    input:
        model=made("models/base"),
        tokens=made("tokens/conversations"),
        heldout=ancient(made("tokens/conversations-heldout")),
    output:
        run=f"{RESULTS}/training/amberchat/run.json",
        manifest=made("training/amberchat/run.json"),
        metrics=f"{RESULTS}/training/amberchat/metrics.jsonl",
    log:
        f"{RESULTS}/logs/finetune_amberchat.log",
    conda:
        ENVIRONMENT
    threads: training_threads("amberchat")
    resources:
        **training_stage("amberchat"),
    params:
        **trained("finetune_amberchat"),
    shell:
        "{LAUNCH[amberchat]}{RESULTS:q}/checkpoints -- scripts/train.py --objective sft --name amberchat --model {RESULTS:q}/models/base"
        " --tokens {RESULTS:q}/tokens/conversations --heldout {RESULTS:q}/tokens/conversations-heldout"
        " --settings {params.settings:q} --runtime {params.runtime:q} --packages {params.packages:q}"
        " --hardware {HARDWARE[amberchat]:q}"
        " --checkpoints {RESULTS:q}/checkpoints --run {output.run:q} --metrics {output.metrics:q} 2>&1 | tee {log:q}"


rule export_amberchat:
    input:
        run=f"{RESULTS}/training/amberchat/run.json",
        model=made("models/base"),
    output:
        made("models/amberchat"),
    log:
        f"{RESULTS}/logs/export_amberchat.log",
    conda:
        ENVIRONMENT
    resources:
        **data_stage(),
    params:
        **depends("export_model.py", "models/amberchat"),
        settings=export_settings(CONFIG.amberchat.training, "vicuna", policy=False),
    shell:
        "python scripts/export_model.py --run {RESULTS:q}/training/amberchat/run.json --base {RESULTS:q}/models/base"
        " --settings {params.settings:q} --output {RESULTS:q}/models/amberchat 2>&1 | tee {log:q}"


rule card_of_amberchat:
    input:
        run=f"{RESULTS}/training/amberchat/run.json",
        run_manifest=made("training/amberchat/run.json"),
        model=made("models/amberchat"),
        raw=[made(path) for path in raw_files(CHAT_PARTS)],
        base=made("models/base"),
    output:
        card=card("amberchat"),
        manifest=made("models/amberchat/README.md"),
    log:
        f"{RESULTS}/logs/card_of_amberchat.log",
    localrule: True
    conda:
        ENVIRONMENT
    params:
        **depends("write_card.py", "models/amberchat/README.md"),
        settings=card_settings("AmberChat", CHAT_PARTS),
        kept=lambda wildcards: kept("finetune_amberchat", wildcards),
        model=f"{RESULTS}/models/amberchat",
        raw=raw_options(CHAT_PARTS),
    shell:
        WRITE_CARD


rule evol_mix:
    input:
        made("data/evol-mix.json"),
        made("data/evol-mix-split.json"),


rule amberchat:
    input:
        made("models/amberchat"),
        card("amberchat"),
