"""The sizes of a model that estimates are made from, counted in the model itself, without its weights."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig

from amberline.model.architecture import build_model, decoder_layers, output_matrix
from amberline.model.attention import NAME, head_width


@dataclass(frozen=True)
class ModelSizes:
    """Numbers of parameters and elements."""

    parameters: int  # what is tied is counted once
    in_products: int  # those that a token is multiplied with: matrices of layers and the output matrix
    layers: int
    layer_parameters: int  # of one layer, on average
    width: int  # of hidden states
    query: int  # of all heads together
    keys: int  # of all key heads together
    inner: int  # of the MLP
    # Outputs of the MLP's projections before the last, per token: 2 · inner where it is gated.
    inner_products: int
    vocabulary: int
    head_width: int
    windows: Mapping[int | None, int]  # layers by how many tokens their attention sees; None: all before each

    @property
    def outside(self) -> int:
        """Parameters outside of layers: embeddings, output matrix and the last norm."""
        return self.parameters - self.layers * self.layer_parameters


def sizes_of(config: PreTrainedConfig) -> ModelSizes:
    """The sizes of the model of a configuration. Raises ModelError where there is none."""
    model = build_model(config, torch.float32, NAME)
    layers, head = decoder_layers(model), output_matrix(model)
    in_layers = sum(each.numel() for each in layers.parameters())
    query = config.num_attention_heads * head_width(config)
    keys = (getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * head_width(config)
    width = head.shape[1]
    linear = [each for each in layers[0].modules() if isinstance(each, nn.Linear)]
    made = sum(each.out_features for each in linear) - query - 2 * keys - 2 * width
    return ModelSizes(
        parameters=sum(each.numel() for each in model.parameters()),
        in_products=sum(each.numel() for each in layers.parameters() if each.ndim == 2) + head.numel(),
        layers=len(layers),
        layer_parameters=in_layers // len(layers),
        width=width,
        query=query,
        keys=keys,
        inner=_inner(linear, width, query),
        inner_products=max(made, 0),
        vocabulary=head.shape[0],
        head_width=head_width(config),
        windows=_windows(config),
    )


def _inner(linear: Sequence[nn.Linear], width: int, query: int) -> int:
    """Width of the MLP: of the projections back to hidden states, the one that is not attention's."""
    back = [each.in_features for each in linear if each.out_features == width]
    if query in back:
        back.remove(query)
    return max(back, default=width)


def _windows(config: PreTrainedConfig) -> Mapping[int | None, int]:
    """Layers by the tokens that their attention sees: all have the window, or those that are called sliding."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding"] * config.num_hidden_layers
    return Counter(window if "sliding" in kind else None for kind in kinds)
