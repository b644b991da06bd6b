"""FastChat's train.py on rows of token ids: its own `train()`, with data that is tokenized already."""

import sys

import peer
import torch
import transformers
from fastchat.train import train as fastchat

from report import Report

CONTEXT = 2048

parser = peer.parser()
parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, as published")
options = parser.parse_args()
torch.set_num_threads(options.threads)
report = Report()


class Rows(torch.utils.data.Dataset):
    """Padded to the context, as FastChat's preprocess does."""

    def __init__(self, path: str) -> None:
        self.rows = peer.read_rows(path)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        ids = torch.zeros(CONTEXT, dtype=torch.long)
        labels = torch.full((CONTEXT,), -100)
        row = self.rows[number]
        length = len(row["input_ids"])
        ids[:length] = torch.tensor(row["input_ids"])
        labels[:length] = torch.tensor(row["labels"])
        return {"input_ids": ids, "labels": labels, "attention_mask": torch.arange(CONTEXT) < length}


class InOrder(peer.InOrder, transformers.Trainer):
    """In the order of the file."""

    def __init__(self, *arguments, **named) -> None:
        super().__init__(*arguments, **named, callbacks=[peer.Timed(report)])


fastchat.Trainer = InOrder
fastchat.make_supervised_data_module = lambda **_: {"train_dataset": Rows(options.rows)}
fastchat.trainer_save_model_safe = lambda _: None
arguments = {
    **peer.ARGUMENTS,
    **peer.layout(options),
    "model_name_or_path": options.model,
    "learning_rate": 2e-5,
    "weight_decay": 0.0,
    "warmup_ratio": 0.04,
    "lr_scheduler_type": "cosine",
    "model_max_length": CONTEXT,
    "gradient_checkpointing": options.checkpointing,
}
sys.argv = ["train.py", *(f"--{name}={value}" for name, value in arguments.items())]
fastchat.train()
report.write(options.output, transformers=transformers.__version__, torch=torch.__version__)
