"""The sizes of a model that estimates are made from, counted in the model itself, without its weights."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig

from amberline.model.architecture import (
    attention_windows,
    build_model,
    decoder_layers,
    output_matrix,
)
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
    inner_products: (
        int  # elements that the MLP's products make of a token, before its last: 2 · inner where it is gated
    )
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
        # What is multiplied back to the width of hidden states is the MLP's result, or attention's.
        inner=max((each.in_features for each in linear if each.out_features == width), default=width),
        inner_products=max(made, 0),
        vocabulary=head.shape[0],
        head_width=head_width(config),
        windows=Counter(min(attention_windows(layer), default=None) for layer in layers),
    )
