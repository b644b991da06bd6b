"""TRL's DPOTrainer on pairs of token ids: plain, or with the reference's log-probabilities computed first.

Padding-free DPO is switched off in TRL 1.16, which falls back to padding.
"""

import argparse
import json
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
parser.add_argument("--mode", choices=("plain", "precompute"), required=True)
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


class InOrder(trl.DPOTrainer):
    """Rows are token ids already, and every contestant sees them in the same order."""

    def _prepare_dataset(self, dataset, *_: object, **__: object):
        return dataset

    def _precompute_ref_logps(self, *arguments, **named):
        report.start()
        try:
            return super()._precompute_ref_logps(*arguments, **named)
        finally:
            report.stop()

    def _get_train_sampler(self, *_: object):
        return torch.utils.data.SequentialSampler(self.train_dataset)


rows = [json.loads(line) for line in Path(options.rows).read_text(encoding="utf-8").splitlines()]
columns = [{f"{name}_ids": row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
arguments = trl.DPOConfig(
    output_dir=f"{options.output}.folder",
    num_train_epochs=1,
    per_device_train_batch_size=options.micro_batch,
    gradient_accumulation_steps=options.batch // options.micro_batch,
    learning_rate=5e-7,
    optim="rmsprop",
    max_grad_norm=10.0,
    lr_scheduler_type="constant_with_warmup",
    warmup_steps=150,
    beta=0.1,
    max_length=512,
    precompute_ref_log_probs=options.mode == "precompute",
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
    train_dataset=Dataset.from_list(columns),
    processing_class=transformers.AutoTokenizer.from_pretrained(options.model),
    callbacks=[Timed()],
)
trainer.train()
report.write(options.output, transformers=transformers.__version__, torch=torch.__version__, trl=trl.__version__)
