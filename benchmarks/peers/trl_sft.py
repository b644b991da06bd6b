"""TRL's SFTTrainer on rows of token ids: plain, packed, or padding-free."""

import argparse
import json
import math
from pathlib import Path

import torch
import transformers
import trl
from datasets import Dataset
from report import Report

parser = argparse.ArgumentParser()
for name in ("rows", "model", "output"):
    parser.add_argument(f"--{name}", required=True)
for name in ("threads", "batch", "micro-batch"):
    parser.add_argument(f"--{name}", type=int, required=True)
parser.add_argument("--mode", choices=("plain", "packing", "padding_free"), required=True)
options = parser.parse_args()
torch.set_num_threads(options.threads)
report = Report()


class Timed(transformers.TrainerCallback):
    def on_train_begin(self, *_: object, **__: object) -> None:
        report.start()

    def on_train_end(self, *_: object, **__: object) -> None:
        report.stop()

    def on_log(self, _args, _state, _control, logs=None, **__: object) -> None:
        if "loss" in logs:
            report.losses.append(logs["loss"])


class InOrder(trl.SFTTrainer):
    """Every contestant sees the rows in the same order; packing makes its own."""

    def _get_train_sampler(self, *_: object):
        return torch.utils.data.SequentialSampler(self.train_dataset)


rows = [json.loads(line) for line in Path(options.rows).read_text(encoding="utf-8").splitlines()]
arguments = trl.SFTConfig(
    output_dir=f"{options.output}.folder",
    num_train_epochs=1,
    per_device_train_batch_size=options.micro_batch,
    gradient_accumulation_steps=options.batch // options.micro_batch,
    learning_rate=2e-5,
    weight_decay=0.0,
    warmup_steps=max(1, math.ceil(0.04 * math.ceil(len(rows) / options.batch))),
    lr_scheduler_type="cosine",
    max_length=2048 if options.mode != "padding_free" else None,
    packing=options.mode == "packing",
    padding_free=options.mode == "padding_free",
    gradient_checkpointing=False,
    bf16=False,
    use_cpu=True,
    save_strategy="no",
    logging_steps=1,
    report_to="none",
    disable_tqdm=True,
)
trainer = InOrder(
    model=transformers.AutoModelForCausalLM.from_pretrained(options.model),
    args=arguments,
    train_dataset=Dataset.from_list(rows),
    processing_class=transformers.AutoTokenizer.from_pretrained(options.model),
    callbacks=[Timed()],
)
trainer.train()
report.write(options.output, transformers=transformers.__version__, torch=torch.__version__, trl=trl.__version__)
