"""From conversations to AmberChat: mix, split, tokenise, finetune, export."""


rule mix:
    input:
        sharegpt=made("raw/sharegpt.json"),
        evol=made("raw/evol_instruct.json"),
        code=code("mix.py"),
        lock=LOCK,
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
        settings=settings(CONFIG.amberchat.mix),
    shell:
        "python scripts/mix.py --sharegpt {RESULTS:q}/raw/sharegpt.json --evol {RESULTS:q}/raw/evol_instruct.json"
        " --settings {params.settings:q} --mix {output.mix:q} --heldout {output.heldout:q}"
        " --funnel {output.funnel:q} --rejects {output.rejects:q} 2>&1 | tee {log:q}"


rule split:
    input:
        mix=made("data/evol-mix{holdout}.json"),
        model=made("models/base"),
        code=code("split.py"),
        lock=LOCK,
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
        settings=settings(CONFIG.amberchat.split),
    shell:
        "python scripts/split.py --conversations {RESULTS:q}/data/evol-mix{wildcards.holdout}.json"
        " --model {RESULTS:q}/models/base --settings {params.settings:q} --processes {threads}"
        " --chunks {output.chunks:q} --funnel {output.funnel:q} --rejects {output.rejects:q}"
        " --comparison {output.comparison:q} 2>&1 | tee {log:q}"


rule tokenise_conversations:
    input:
        chunks=made("data/evol-mix{holdout}-split.json"),
        model=made("models/base"),
        code=code("tokenise_conversations.py"),
        lock=LOCK,
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
        settings=settings(CONFIG.amberchat.tokens),
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
        heldout=made("tokens/conversations-heldout"),
        code=code("train_chat.py"),
        lock=LOCK,
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
        settings=settings(CONFIG.amberchat.training),
    shell:
        "{LAUNCH[amberchat]}{RESULTS:q}/checkpoints -- scripts/train_chat.py --model {RESULTS:q}/models/base"
        " --tokens {RESULTS:q}/tokens/conversations --heldout {RESULTS:q}/tokens/conversations-heldout"
        " --settings {params.settings:q} --hardware {HARDWARE[amberchat]:q} --tracking {TRACKING:q}"
        " --checkpoints {RESULTS:q}/checkpoints --run {output.run:q} --metrics {output.metrics:q} 2>&1 | tee {log:q}"


rule export_amberchat:
    input:
        run=made("training/amberchat/run.json"),
        model=made("models/base"),
        code=code("export_model.py"),
        lock=LOCK,
    output:
        made("models/amberchat"),
    log:
        f"{RESULTS}/logs/export_amberchat.log",
    conda:
        ENVIRONMENT
    resources:
        **data_stage(),
    params:
        settings=export_settings(
            "AmberChat", CONFIG.amberchat.training.export_dtype, "vicuna", CHAT_PARTS, policy=False
        ),
    shell:
        "python scripts/export_model.py --run {RESULTS:q}/training/amberchat/run.json --base {RESULTS:q}/models/base"
        " --settings {params.settings:q} --output {RESULTS:q}/models/amberchat 2>&1 | tee {log:q}"


rule evol_mix:
    input:
        made("data/evol-mix.json"),
        made("data/evol-mix-split.json"),


rule amberchat:
    input:
        made("models/amberchat"),
