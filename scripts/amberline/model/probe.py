"""Whether a model computes in a packed batch what it computes for each document by itself, tried before any training.

A slice of the very model (its configuration with few layers, heads and entries, and random weights) runs packed as
the training will: on this device, in this dtype, with this attention, compiled or not. The same documents run one by
one through transformers' own model with its eager attention. Hidden states after each layer, log-probabilities and
gradients have to agree. So support is no list of architectures: what agrees can be trained, and nothing else.
"""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from amberline.hub.model_names import ModelError
from amberline.model.architecture import build_model, decoder_layers, materialise, stored_tensors
from amberline.model.attention import Kind
from amberline.model.checkpointing import Level
from amberline.model.load import make_model
from amberline.model.packed import PackedBatch, pack

# Tokens of the documents: one that predicts nothing, and several that are longer than the window.
LENGTHS = (7, 1, 13, 22)
WINDOW = 5  # tokens that windowed layers of the slice see, where the model's see more
VOCABULARY, INNER, KEY_HEADS = 256, 256, 2  # at most, in the slice
LAYERS = 2  # at least, where the model has as many
# How far rounding may set them apart, as norms: of the difference, relative to that of the whole. transformers computes
# norms, rotations and eager attention's softmax in float32 even where the model is float64. An attention that ignores
# borders makes a difference of a tenth and more.
LIMITS = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 5e-2}
TF32_LIMIT = 1e-2


@dataclass
class _Found:
    """What one way of running the model computes; documents lie end to end."""

    layers: list[torch.Tensor] = field(default_factory=list)  # hidden states after each layer, [T, width]
    logps: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # of each target, [L]
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)  # of the sum of all log-probabilities


def probe(
    config: PreTrainedConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    attention: Kind,
    activation_checkpointing: Level = "none",
    compile: bool = False,
) -> None:
    """Run a slice of the model packed and one by one. Raises ModelError, naming the layer, where they differ.

    Takes no random numbers from the generators of the run, and a few MB.
    """
    device = torch.device(device)
    cut, places = slice_of(config)
    how = f"with attention {attention} in {str(dtype).removeprefix('torch.')} on {device.type}"
    packed = make_model(
        cut,
        dtype=dtype,
        attention=attention,
        activation_checkpointing=activation_checkpointing,
        compile=compile,
    )
    reference = build_model(cut, dtype, "eager")
    for model in (packed, reference):
        materialise(model, device)
        model.train()
    _fill(packed, reference)
    batch = _batch(min(VOCABULARY, cut.vocab_size)).to(device)
    try:
        found = _run_packed(packed, batch)
    except (torch.OutOfMemoryError, ModelError):
        raise
    except Exception as error:  # whatever a model raises that was not made for being called so
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ModelError(
            f"a {config.model_type!r} model cannot be run on packed documents {how} ({told}). So fail models whose "
            "layers do not hand the borders of documents on to their attention. Fix: take another model"
            f"{', or set compile under hardware to false.' if compile else '.'}"
        ) from None
    finally:
        if compile:
            # The whole model's graphs are others, and are counted by themselves: see training/compiled.py.
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
    expected, limit = _run_one_by_one(reference, batch), _limit(device, dtype)
    for what, difference in _differences(found, expected, places):
        if not difference <= limit:
            raise ModelError(
                f"a {config.model_type!r} model computes something else on packed documents {how} than on each of them "
                f"by itself: {what} differ by {difference:.1e} of their size ({limit:g} is allowed). Nothing "
                "was started. Fix: set attention under hardware to sdpa, if it is another one, or take another model."
            )


def _limit(device: torch.device, dtype: torch.dtype) -> float:
    has_tf32 = device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return TF32_LIMIT if dtype == torch.float32 and has_tf32 else LIMITS[dtype]


def slice_of(config: PreTrainedConfig) -> tuple[PreTrainedConfig, list[int]]:
    """A small model of the same kind, and which layers of the model its layers are: the first of each kind, at least.

    Kinds of layers are told apart by the lists of the configuration that have an entry for each layer. Heads keep
    their width, and their number for each key head.
    """
    count = config.num_hidden_layers
    lists = {name: each for name, each in config.to_dict().items() if isinstance(each, list) and len(each) == count}
    kinds = [json.dumps([each[layer] for each in lists.values()], default=str) for layer in range(count)]
    places = sorted({kinds.index(kind) for kind in kinds} | set(range(min(LAYERS, count))))
    values: dict[str, Any] = {name: [each[place] for place in places] for name, each in lists.items()}
    values |= {"num_hidden_layers": len(places), **_fewer_heads(config)}
    for name, most in (("vocab_size", VOCABULARY), ("intermediate_size", INNER), ("sliding_window", WINDOW)):
        if isinstance(found := getattr(config, name, None), int):
            values[name] = min(found, most)
    values |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    cut = copy.deepcopy(config)
    for name, value in values.items():
        setattr(cut, name, value)  # by the names that all architectures have, whatever this one calls it
    return cut, places


def _fewer_heads(config: PreTrainedConfig) -> dict[str, int]:
    """Sizes with KEY_HEADS key heads, if that is fewer."""
    heads, width = config.num_attention_heads, config.hidden_size
    keys = getattr(config, "num_key_value_heads", None)
    parts = (keys or heads) // KEY_HEADS
    if (keys or heads) % KEY_HEADS or parts < 2 or heads % parts or width % parts:
        return {}
    fewer = {"num_attention_heads": heads // parts, "hidden_size": width // parts}
    return fewer | ({"num_key_value_heads": KEY_HEADS} if keys else {})


@torch.no_grad()
def _fill(packed: nn.Module, reference: nn.Module) -> None:
    """The same random weights for both: matrices that keep the size of what they multiply, all else around one."""
    theirs = stored_tensors(reference)
    for number, (name, tensor) in enumerate(stored_tensors(packed).items()):
        noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number))
        is_embedding = tensor.ndim == 2 and tensor is _embeddings(packed)
        scale = 1.0 if is_embedding else tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else 0.1
        values = noise * scale + (1.0 if tensor.ndim < 2 and name.endswith("weight") else 0.0)
        for each in (tensor, theirs[name]):
            each.copy_(values)


def _embeddings(model: nn.Module) -> torch.Tensor:
    assert isinstance(model, PreTrainedModel)
    return model.get_input_embeddings().get_parameter("weight")


def _batch(vocabulary: int) -> PackedBatch:
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(vocabulary, (length,), generator=generator).numpy() for length in LENGTHS]
    return pack([(ids, ids, 1.0) for ids in documents], whole=True)


def _run_packed(model: PreTrainedModel, batch: PackedBatch) -> _Found:
    found = _Found()
    with _watched(model, lambda place, states: found.layers.insert(place, states[0])):
        logps = model(batch, "token_logps")
    logps.sum().backward()
    found.logps, found.gradients = logps.detach(), _gradients(model)
    return found


def _run_one_by_one(model: PreTrainedModel, batch: PackedBatch) -> _Found:
    layers: dict[int, list[torch.Tensor]] = {}
    logps = []
    with _watched(model, lambda place, states: layers.setdefault(place, []).append(states[0])):
        for ids in batch.input_ids.split(batch.cu_seqlens.diff().tolist()):
            logits = model(input_ids=ids[None], use_cache=False).logits[0]
            exact = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
            logps.append(exact[:-1].gather(1, ids[1:, None]).squeeze(1))
    together = torch.cat(logps)
    together.sum().backward()
    return _Found([torch.cat(layers[place]) for place in sorted(layers)], together.detach(), _gradients(model))


@contextmanager
def _watched(model: PreTrainedModel, take: Callable[[int, torch.Tensor], Any]) -> Iterator[None]:
    """Hand on what each layer returns, [1, T, width], with the layer's place."""

    def hook(place: int) -> Callable[..., None]:
        return lambda _layer, _inputs, output: take(place, _states(output).detach())

    handles = [layer.register_forward_hook(hook(place)) for place, layer in enumerate(decoder_layers(model))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _states(output: Any) -> torch.Tensor:
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


def _gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def _differences(found: _Found, expected: _Found, places: list[int]) -> Iterator[tuple[str, float]]:
    """What is compared, and how far apart it is, in the order in which it is computed."""
    for place, ours, theirs in zip(places, found.layers, expected.layers, strict=True):
        yield f"the hidden states after layer {place}", _norm(ours - theirs) / _norm(theirs)
    yield "the log-probabilities", _norm(found.logps - expected.logps) / _norm(expected.logps)
    if lost := sorted(found.gradients.keys() ^ expected.gradients.keys()):
        yield f"the gradients of {lost[0]}", float("inf")
    # Relative to the largest, for some are 0 but for rounding, such as that of a bias of all keys.
    scale = max(map(_norm, expected.gradients.values()))
    for name, gradient in reversed(expected.gradients.items()):
        yield f"the gradients of the slice's {name}", _norm(found.gradients[name] - gradient) / scale


def _norm(tensor: torch.Tensor) -> float:
    return float(tensor.double().norm())
