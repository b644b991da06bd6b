"""A training in this process, with everything in hand: orders, model, figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from amberline.batches.plan import plan_batches
from amberline.model.attention import Kind
from amberline.model.checkpointing import Level
from amberline.model.files import read_config
from amberline.model.load import load_model
from amberline.model.sizes import sizes_of
from amberline.objectives.base import Objective
from amberline.objectives.settings import Training
from amberline.recipe.tracking import Tracking
from amberline.training.checkpoints import Checkpoints
from amberline.training.curve import read_metrics
from amberline.training.loop import Run, train
from amberline.training.metrics import Metrics
from amberline.training.monitors import Monitor
from amberline.training.optimizers import make_optimizer
from amberline.training.ranks import Ranks
from amberline.training.run_directory import Identity, RunDirectory
from amberline.training.shapes import Shape

ALONE = Ranks(0, 1, torch.device("cpu"))


def train_alone(
    folder: Path,
    model_folder: Path,
    objective: Objective,
    settings: Training,
    *,
    orders: Sequence[Sequence[int]] | None = None,
    micro_batch_tokens: int = 512,
    shape: Shape | None = None,
    attention: Kind = "sdpa",
    level: Level = "none",
    compile: bool = False,
) -> tuple[list[dict[str, Any]], torch.nn.Module]:
    """Train in `folder` from the start. Returns the curve and the model."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_batches(
        *objective.sizes(),
        seed=settings.seed,
        epochs=settings.epochs,
        global_batch=settings.global_batch,
        partial_batch=settings.partial_batch,
        loss_normalization=settings.loss_normalization,
        micro_batch_examples=settings.micro_batch_examples,
        orders=orders,
    )
    sizes = sizes_of(read_config(model_folder))
    model = load_model(model_folder, device="cpu", attention=attention, activation_checkpointing=level, compile=compile)
    tracking = Tracking(wandb_project=None, wandb_mode="offline")
    run = Run(
        ranks=ALONE,
        directory=RunDirectory(folder, "test", Identity({}, {}, "", {}, {})),
        settings=settings,
        sizes=sizes,
        model=model,
        optimizer=make_optimizer(model, settings.optimizer),
        objective=objective,
        plan=plan,
        heldout=None,
        micro_batch_tokens=micro_batch_tokens,
        shape=shape,
        compiled=compile,
        keep_gathered=True,
        reduce_each=False,
        checkpoints=Checkpoints(folder, 1, ["last"], plan.digest, ALONE, print),
        metrics=Metrics(folder, "test", tracking, 0, plan.steps),
        watch=Monitor(settings.monitors),
    )
    train(run, 0)
    assert run.metrics is not None
    run.metrics.close()
    return read_metrics(folder / "metrics.jsonl"), model
