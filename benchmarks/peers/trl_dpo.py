"""TRL's DPOTrainer on pairs of token ids: plain, or with the reference's log-probabilities computed first.

Padding-free DPO is switched off in TRL 1.16, which falls back to padding.
"""

import peer
import torch
import transformers
import trl
from datasets import Dataset

from report import Report

parser = peer.parser()
parser.add_argument("--mode", choices=("plain", "precompute"), required=True)
options = parser.parse_args()
torch.set_num_threads(options.threads)
report = Report()


class InOrder(peer.InOrder, trl.DPOTrainer):
    """In the order of the file, whose rows are token ids already; the reference pass is timed, too."""

    def _prepare_dataset(self, dataset, *_: object, **__: object):
        return dataset

    _precompute_ref_logps = report.timed(trl.DPOTrainer._precompute_ref_logps)


parts = ("prompt", "chosen", "rejected")
arguments = trl.DPOConfig(
    **peer.ARGUMENTS,
    **peer.layout(options),
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
)
trainer = InOrder(
    model=transformers.AutoModelForCausalLM.from_pretrained(options.model),
    args=arguments,
    train_dataset=Dataset.from_list(
        [{f"{part}_ids": row[part] for part in parts} for row in peer.read_rows(options.rows)]
    ),
    processing_class=transformers.AutoTokenizer.from_pretrained(options.model),
    callbacks=[peer.Timed(report)],
)
trainer.train()
report.write(options.output, transformers=transformers.__version__, torch=torch.__version__, trl=trl.__version__)
