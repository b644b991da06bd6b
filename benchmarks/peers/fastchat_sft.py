"""FastChat's train.py on rows of token ids: its own `train()`, with data that is tokenised already."""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers
from fastchat.train import train as fastchat
from report import Report

parser = argparse.ArgumentParser()
for name in ("rows", "model", "output"):
    parser.add_argument(f"--{name}", required=True)
for name in ("threads", "batch", "micro-batch"):
    parser.add_argument(f"--{name}", type=int, required=True)
parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, as published")
options = parser.parse_args()
torch.set_num_threads(options.threads)
report = Report()


class Rows(torch.utils.data.Dataset):
    """Padded to the context, as FastChat's preprocess does."""

    def __init__(self, path: str, context: int) -> None:
        self.rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        self.context = context

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        ids = torch.zeros(self.context, dtype=torch.long)
        labels = torch.full((self.context,), -100)
        row = self.rows[number]
        length = len(row["input_ids"])
        ids[:length] = torch.tensor(row["input_ids"])
        labels[:length] = torch.tensor(row["labels"])
        return {"input_ids": ids, "labels": labels, "attention_mask": torch.arange(self.context) < length}


class Timed(transformers.TrainerCallback):
    def on_train_begin(self, *_: object, **__: object) -> None:
        report.start()

    def on_train_end(self, *_: object, **__: object) -> None:
        report.stop()

    def on_log(self, _args, _state, _control, logs=None, **__: object) -> None:
        if "loss" in logs:
            report.losses.append(logs["loss"])


class InOrder(transformers.Trainer):
    """Every contestant sees the rows in the same order."""

    def __init__(self, *arguments, **named) -> None:
        super().__init__(*arguments, **named, callbacks=[Timed()])

    def _get_train_sampler(self, *_: object):
        return torch.utils.data.SequentialSampler(self.train_dataset)


fastchat.Trainer = InOrder
fastchat.make_supervised_data_module = lambda **_: {"train_dataset": Rows(options.rows, 2048)}
fastchat.trainer_save_model_safe = lambda _: None
arguments = {
    "model_name_or_path": options.model,
    "output_dir": f"{options.output}.folder",
    "num_train_epochs": 1,
    "per_device_train_batch_size": options.micro_batch,
    "gradient_accumulation_steps": options.batch // options.micro_batch,
    "learning_rate": 2e-5,
    "weight_decay": 0.0,
    "warmup_ratio": 0.04,
    "lr_scheduler_type": "cosine",
    "model_max_length": 2048,
    "gradient_checkpointing": options.checkpointing,
    "save_strategy": "no",
    "logging_steps": 1,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}
sys.argv = ["train.py", *(f"--{name}={value}" for name, value in arguments.items())]
fastchat.train()
report.write(options.output, transformers=transformers.__version__, torch=torch.__version__)
