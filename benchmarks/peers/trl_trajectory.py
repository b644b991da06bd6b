"""TRL's SFTTrainer on conversations, or its DPOTrainer on preferences, as messages: what it reads and each step's loss.

Unlike the other programs here it is not timed, and TRL makes the tokens itself: it shows whether two implementations
come to the same.
"""

import json
from pathlib import Path

import peer
import torch
import transformers
import trl
from datasets import Dataset

parser = peer.parser()
parser.add_argument("--objective", choices=("sft", "dpo"), required=True)
parser.add_argument("--learning-rate", type=float, required=True)
parser.add_argument("--warmup-ratio", type=float, required=True)
parser.add_argument("--beta", type=float, help="of DPO")
parser.add_argument("--tokenizer", required=True)
options = parser.parse_args()
torch.set_num_threads(options.threads)
losses: list[float] = []


class Told:
    """A trainer in the order of the file that keeps each step's loss, which the log rounds."""

    def training_step(self, *arguments, **named):
        loss = super().training_step(*arguments, **named)
        losses.append(float(loss))
        return loss


class SFT(Told, peer.InOrder, trl.SFTTrainer):
    """Supervised finetuning on every token."""


class DPO(Told, peer.InOrder, trl.DPOTrainer):
    """Direct preference optimisation."""


rows = peer.read_rows(options.rows)
shared = {
    **peer.ARGUMENTS,
    **peer.layout(options),
    "learning_rate": options.learning_rate,
    "warmup_steps": options.warmup_ratio,  # below 1: the part of all steps
    "lr_scheduler_type": "cosine",
    "optim": "adamw_torch",
    "max_length": None,
    "gradient_checkpointing": False,
    "bf16": False,
}
kind, arguments = (
    (SFT, trl.SFTConfig(**shared)) if options.objective == "sft" else (DPO, trl.DPOConfig(**shared, beta=options.beta))
)
trainer = kind(
    model=transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
    args=arguments,
    train_dataset=Dataset.from_list(rows),
    processing_class=transformers.AutoTokenizer.from_pretrained(options.tokenizer),
)
trainer.train()
columns = [name for name in trainer.train_dataset.column_names if name.endswith("ids")]
report = {
    "tokens": [{name: row[name] for name in columns} for row in trainer.train_dataset],
    "losses": losses,
    "versions": {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
}
Path(options.output).write_text(json.dumps(report), encoding="utf-8")
