"""TRL's SFTTrainer on rows of token ids: plain, packed, or padding-free."""

import math

import peer
import torch
import transformers
import trl
from datasets import Dataset

from report import Report

parser = peer.parser()
parser.add_argument("--mode", choices=("plain", "packing", "padding_free"), required=True)
options = parser.parse_args()
torch.set_num_threads(options.threads)
report = Report()


class InOrder(peer.InOrder, trl.SFTTrainer):
    """In the order of the file; packing makes its own."""


rows = peer.read_rows(options.rows)
arguments = trl.SFTConfig(
    **peer.ARGUMENTS,
    **peer.layout(options),
    learning_rate=2e-5,
    weight_decay=0.0,
    warmup_steps=max(1, math.ceil(0.04 * math.ceil(len(rows) / options.batch))),
    lr_scheduler_type="cosine",
    max_length=2048 if options.mode != "padding_free" else None,
    packing=options.mode == "packing",
    padding_free=options.mode == "padding_free",
    gradient_checkpointing=False,
    bf16=False,
)
trainer = InOrder(
    model=transformers.AutoModelForCausalLM.from_pretrained(options.model),
    args=arguments,
    train_dataset=Dataset.from_list(rows),
    processing_class=transformers.AutoTokenizer.from_pretrained(options.model),
    callbacks=[peer.Timed(report)],
)
trainer.train()
report.write(options.output, transformers=transformers.__version__, torch=torch.__version__, trl=trl.__version__)
