"""What training asks of the model: the loss of a packed batch, or the log-probabilities of its targets."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from amberline.model import logps
from amberline.model.architecture import logit_scale, output_matrix
from amberline.model.attention import Kind
from amberline.model.packed import PackedBatch

Output = Literal["hidden_states", "token_logps", "weighted_loss"]


def run_on_packed_documents(model: PreTrainedModel, attention: Kind, *, one_shape: bool = False) -> None:
    """Let `model(batch, output)` be what this file's functions ask for, with parameters and their names unchanged.

    The method is replaced, and the model not wrapped, so that no parameter changes its name. With `one_shape`,
    layers are compiled for one number of tokens, and only the number of documents differs.
    """
    model.forward = partial(_forward, model, attention, one_shape)


def _forward(
    model: PreTrainedModel, attention: Kind, one_shape: bool, batch: PackedBatch, output: Output
) -> torch.Tensor:
    """One of hidden states [T, width], log-probabilities of the targets [L], and the weighted loss, a scalar.

    The loss is computed in here, because only here does FSDP hold the output matrix whole.
    """
    if one_shape:
        torch._dynamo.mark_dynamic(batch.cu_seqlens, 0)
    states = model.base_model(
        input_ids=batch.input_ids[None],
        position_ids=batch.position_ids[None],
        attention_mask=None,
        use_cache=False,
        cu_seqlens=batch.cu_seqlens,
        max_length=batch.max_length,
        kind=attention,
    )
    hidden: torch.Tensor = states.last_hidden_state[0]
    if output == "hidden_states":
        return hidden
    predicting, weight, scale = hidden[batch.target_positions], output_matrix(model), logit_scale(model.config)
    if scale != 1:
        predicting = predicting * scale
    if output == "token_logps":
        return logps.log_probabilities(predicting, weight, batch.targets)
    return logps.weighted_loss(predicting, weight, batch.targets, batch.target_weights)


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Run the model without gradients; afterwards, let go of the parameters that FSDP gathered.

    It is the backward pass that does so otherwise. Without one, `model.parameters()` would be the gathered copies.
    """
    try:
        with torch.no_grad():
            yield
    finally:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def hidden_states(model: nn.Module, batch: PackedBatch) -> torch.Tensor:
    """Hidden states after the last norm, [T, width], in the compute dtype."""
    result: torch.Tensor = model(batch, "hidden_states")
    return result


def token_logps(model: nn.Module, batch: PackedBatch) -> torch.Tensor:
    """Log-probability of each target given what comes before it in its document, [L] float32 (float64 in float64)."""
    result: torch.Tensor = model(batch, "token_logps")
    return result


def weighted_loss(model: nn.Module, batch: PackedBatch) -> torch.Tensor:
    """−Σ target_weights · log p(target): this batch's share of the loss of the step, a float64 scalar."""
    result: torch.Tensor = model(batch, "weighted_loss")
    return result


def document_logps(token_logps: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """Log-probability of each document's targets together, [D]: the sums of `token_logps` [L] in each document."""
    return token_logps.new_zeros(batch.documents).index_add(0, batch.target_documents, token_logps)
