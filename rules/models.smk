"""What the rules that write models and their cards share."""


def export_settings(stage, template, *, policy):
    """What determines an exported model, and the settings that its training must have had."""
    training = json.loads(determining(stage))
    return canonical({"dtype": stage.export_dtype, "template": template, "policy": policy, "training": training})


def card(model):
    """The card of a model."""
    return f"{RESULTS}/models/{model}/README.md"


def card_settings(name, parts, deviations=DEVIATIONS):
    """What a model's card says of its sources, and of the deviations from the published recipe that went into it."""
    differ = {key: values for key, values in deviations.items() if key.startswith(parts)}
    return canonical({"name": name, "sources": sources_of(parts), "deviations": differ})


RAW = {
    "sharegpt": "raw/sharegpt.json",
    "evol_instruct": "raw/evol_instruct.json",
    "pku_train": "raw/pku_train.jsonl.xz",
    "pku_test": "raw/pku_test.jsonl.xz",
}


def raw_files(parts):
    """The raw files among parts of the configuration."""
    return [path for name, path in RAW.items() if f"sources.{name}".startswith(parts)]


def raw_options(parts):
    """The options that name the raw files among parts of the configuration."""
    return [word for path in raw_files(parts) for word in ("--raw", f"{RESULTS}/{path}")]


WRITE_CARD = (
    "python scripts/write_card.py --model {params.model:q} --run {input.run:q} {params.raw:q} --base {RESULTS:q}/models/base"
    " --settings {params.settings:q} --output {output.card:q} 2>&1 | tee {log:q}"
)
