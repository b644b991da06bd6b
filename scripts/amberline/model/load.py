"""From a model folder on disk to a model ready to run: sharded over ranks, with no rank ever holding all of it."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel

from amberline.hub.model_names import ModelError
from amberline.model.architecture import (
    build_model,
    decoder_layers,
    file_names,
    materialise,
    stored_tensors,
    tied_parameters,
)
from amberline.model.attention import NAME, Kind
from amberline.model.checkpointing import Level, checkpoint_activations
from amberline.model.files import AGAIN, WeightFiles, read_config
from amberline.model.forward import run_on_packed_documents
from amberline.model.norms import use_exact_norms


def load_model(
    folder: Path,
    *,
    device: torch.device | str,
    mesh: DeviceMesh | None = None,
    compute_dtype: torch.dtype = torch.float32,
    attention: Kind = "sdpa",
    activation_checkpointing: Level = "none",
    reshard_after_forward: bool = False,
    compile: bool = False,
    one_shape: bool = False,
) -> PreTrainedModel:
    """Load a causal language model from a Hugging Face folder, to be run on packed documents.

    Parameters are float32 whatever the files hold (float64 if `compute_dtype` is). With a `mesh` they are sharded over
    its last dimension with FSDP2, each decoder layer by itself and the rest together, and replicated over the first of
    two (HSDP); gradients are then summed over all ranks, not averaged, because loss weights are those of the whole
    step. Without a mesh this is the only process; if it computes in bfloat16 it uses FSDP2 all the same, which keeps
    the float32 parameters beside.

    `one_shape` promises that all batches have the same tokens and `max_length`, and compiles for those alone.

    Raises ModelError when the model cannot be trained here, or its files lack a weight, have one too many or of another
    shape.
    """
    device = torch.device(device)
    if mesh is None and compute_dtype == torch.bfloat16:
        mesh = _mesh_of_one(device)
    model = make_model(
        read_config(folder),
        dtype=torch.promote_types(compute_dtype, torch.float32),
        attention=attention,
        activation_checkpointing=activation_checkpointing,
        compile=compile,
        one_shape=one_shape,
    )
    names = file_names(model)  # by its class, which FSDP changes
    if mesh is not None:
        _shard(model, mesh, compute_dtype, reshard_after_forward)
    materialise(model, device)
    _fill(model, WeightFiles(folder), names)
    model.train()
    return model


def make_model(
    config: PreTrainedConfig,
    *,
    dtype: torch.dtype,
    attention: Kind,
    activation_checkpointing: Level,
    compile: bool,
    one_shape: bool = False,
) -> PreTrainedModel:
    """A model that runs on packed documents, without memory for its parameters. Raises ModelError."""
    model = build_model(config, dtype, NAME)
    run_on_packed_documents(model, attention, one_shape=compile and one_shape)
    use_exact_norms(model)
    layers = decoder_layers(model)
    checkpoint_activations(layers, activation_checkpointing)
    if compile:
        for layer in layers:
            layer.forward = torch.compile(layer.forward, dynamic=not one_shape)
    return model


def _mesh_of_one(device: torch.device) -> DeviceMesh:
    """A mesh of this process alone."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    return init_device_mesh(device.type, (1,))


def _shard(model: PreTrainedModel, mesh: DeviceMesh, compute_dtype: torch.dtype, reshard_after_forward: bool) -> None:
    precision = MixedPrecisionPolicy()
    if compute_dtype == torch.bfloat16:
        # Inputs are not cast: the only floating-point ones are the targets' weights, which have to stay exact.
        precision = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=precision, reshard_after_forward=reshard_after_forward)
    # Embeddings and output matrix are needed again at once by the backward pass: they stay gathered.
    fully_shard(model, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            # Without this, a factor is passed into the reduction itself, which gloo cannot do.
            module.set_force_sum_reduction_for_comms(True)


@torch.no_grad()
def _fill(model: nn.Module, files: WeightFiles, names: Mapping[str, str]) -> None:
    """Copy weights from files into parameters and buffers; of a sharded one, only this rank's rows are read.

    `names` are those in the files, by the names in the model.
    """
    tensors = {names[name]: tensor for name, tensor in stored_tensors(model).items()}
    absent, unknown = tensors.keys() - files.names(), files.names() - tensors.keys() - tied_parameters(model).keys()
    if absent or unknown:
        raise ModelError(
            f"{files.folder} does not fit its config.json: "
            f"missing weights {sorted(absent)[:3]}, unexpected weights {sorted(unknown)[:3]}. {AGAIN}"
        )
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            # FSDP2 cuts the rows into equal pieces, rounded up; the last ranks may have fewer, or none.
            local, mesh = tensor.to_local(), tensor.device_mesh
            last = mesh.ndim - 1  # a dimension before it has replicas
            start = mesh.get_local_rank(last) * -(-len(tensor) // mesh.size(last))
            rows = slice(start, start + len(local))
        else:
            local, rows = tensor, slice(None)
        if local.numel():
            stored = files.read(name, rows)
            if stored.shape != local.shape:
                raise ModelError(
                    f"{files.folder}: {name} has shape {list(stored.shape)}, not {list(local.shape)}. {AGAIN}"
                )
            local.copy_(stored)
