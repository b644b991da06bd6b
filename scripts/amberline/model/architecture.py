"""Any causal language model of transformers, built without its weights, and where its parts are.

Nothing here knows an architecture by name: layers, output matrix, tied parameters and buffers are found in the model.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from amberline.hub.model_names import ModelError


def build_model(config: PreTrainedConfig, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """The causal language model of a configuration, without weights and without dropout.

    Matrices are on the meta device. Buffers that are in no file, such as rotary frequencies, hold their values, which
    are computed on the CPU. `attention` is the name of an implementation that transformers knows.

    Raises ModelError where transformers has no such model, or this one's attention cannot be replaced.
    """
    config = without_dropout(config)
    # `auto_map` of a model that transformers knows by itself is no reason to run the folder's code.
    own_code = not type(config).__module__.startswith("transformers.")
    try:
        with _WithoutWeights():
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention, trust_remote_code=own_code
            )
    except Exception as error:  # transformers raises errors of many classes for values that it does not take
        found = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelError(
            f"transformers cannot build a {config.model_type!r} model, with its attention replaced, from this "
            f"config.json ({found}). Fix: take another model, unless that says what is wrong in its folder."
        ) from None
    return model


class _WithoutWeights(TorchFunctionMode):
    """Makes what `torch.empty` makes on the meta device: that is how modules make their matrices."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return function(*args, **(kwargs | {"device": "meta"} if function is torch.empty else kwargs))


def without_dropout(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy in which every dropout is 0."""
    config = copy.deepcopy(config)
    for name in dropouts(config):
        setattr(config, name, 0.0)
    return config


def dropouts(config: PreTrainedConfig) -> dict[str, float]:
    """The dropouts of a configuration that are not 0, by name; not those of classifiers, which no causal model has."""
    numbers = {name: each for name, each in config.to_dict().items() if "drop" in name and "classifier" not in name}
    return {name: value for name, value in numbers.items() if isinstance(value, int | float) and value > 0}


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The layers of the model: the one list of as many modules as the configuration has layers. Raises ModelError."""
    count = getattr(model.config, "num_hidden_layers", None)
    lists = (each for each in model.modules() if isinstance(each, nn.ModuleList))
    found = [each for each in lists if len(each) == count]
    # Lists inside of a layer, which may be as long, come after the list of layers.
    if not found:
        raise ModelError(f"a {model.config.model_type!r} model has no list of {count} layers. Fix: take another model.")
    return found[0]


def output_matrix(model: PreTrainedModel) -> nn.Parameter:
    """What hidden states are multiplied with to get logits, [vocabulary, width]. Raises ModelError."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise ModelError(
            f"the output layer of a {model.config.model_type!r} model is no plain matrix, and the loss is computed "
            "with one. Fix: take another model."
        )
    return head.weight


def logit_scale(config: PreTrainedConfig) -> float:
    """What logits are multiplied with: Cohere's `logit_scale`, or Granite's `logits_scaling`, which divides."""
    return float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)


def tied_parameters(model: nn.Module) -> dict[str, str]:
    """Further names of parameters that have several, each with the first: {"lm_head.weight": "model.embed…"}."""
    first: dict[nn.Parameter, str] = {}
    tied = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(parameter, name) != name:
            tied[name] = first[parameter]
    return tied


def stored_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers that are in a model's files, by name; what is tied once, by its first name."""
    tied, state = tied_parameters(model), model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name not in tied}


def file_names(model: PreTrainedModel) -> dict[str, str]:
    """What the stored tensors are called in files, by their names in the model: a few architectures have others there.

    Raises ModelError where a file's tensors are no longer those of the model, but cut or put together from them.
    """
    tensors = stored_tensors(model)
    names = {id(tensor): name for name, tensor in tensors.items()}
    in_files = {names.get(id(tensor)): name for name, tensor in revert_weight_conversion(model, tensors).items()}
    if in_files.keys() != tensors.keys():
        raise ModelError(
            f"transformers puts the weights of a {model.config.model_type!r} model together from others in its files, "
            "which is not done here. Fix: take another model."
        )
    return {name: in_files[name] for name in tensors}


@dataclass(frozen=True)
class Outline:
    """What is in the files of a model, without its weights."""

    names: dict[str, str]  # of all tensors in the files, by their names in the model
    shapes: dict[str, tuple[int, ...]]  # by the names in the files
    tied: dict[str, str]  # further names of tensors that are tied, which files may have too, each with its own
    kind: str  # the class that transformers has for it


def outline(config: PreTrainedConfig) -> Outline:
    """What is in the files of a configuration's model. Raises ModelError where there is none."""
    model = build_model(config, torch.float32, "eager")
    names, tensors = file_names(model), stored_tensors(model)
    shapes = {names[name]: tuple(tensor.shape) for name, tensor in tensors.items()}
    return Outline(names, shapes, tied_parameters(model), type(model).__name__)


def materialise(model: nn.Module, device: torch.device) -> None:
    """Give all tensors of the model memory on a device. Buffers that are in no file keep their values; ties stay."""
    tied = tied_parameters(model)
    computed = {name: buffer for name, buffer in model.named_buffers() if name not in model.state_dict()}
    model.to_empty(device=device)
    for name, buffer in computed.items():
        owner, last = _owner(model, name)
        owner.register_buffer(last, buffer.to(device), persistent=False)
    for name, original in tied.items():
        owner, last = _owner(model, name)
        setattr(owner, last, model.get_parameter(original))


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that has a parameter or buffer, and the name that it has there."""
    path, _, last = name.rpartition(".")
    return model.get_submodule(path), last
