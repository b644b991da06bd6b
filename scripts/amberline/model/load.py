"""From a model folder on disk to a model ready to run: sharded over ranks, with no rank ever holding all of it."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from amberline.hub.model_names import ModelError
from amberline.model.attention import NAME, Kind
from amberline.model.checkpointing import Level, checkpoint_activations
from amberline.model.files import AGAIN, WeightFiles, read_config
from amberline.model.forward import PackedLlama


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
) -> PackedLlama:
    """Load a Llama from a Hugging Face folder.

    Parameters are float32 whatever the files hold (float64 if `compute_dtype` is). With a `mesh` they are sharded over
    its last dimension with FSDP2, each decoder layer by itself and the rest together, and replicated over the first of
    two (HSDP); gradients are then summed over all ranks, not averaged, because loss weights are those of the whole
    step. Without a mesh this is the only process; if
    it computes in bfloat16 it uses FSDP2 all the same, which keeps the float32 parameters beside.

    `one_shape` promises that all batches have the same tokens and `max_length`, and compiles for those alone.

    Raises ModelError when the folder is no Llama, or its files lack a weight, have one too many or of another shape.
    """
    device = torch.device(device)
    if mesh is None and compute_dtype == torch.bfloat16:
        mesh = _mesh_of_one(device)
    config = read_config(folder)
    config._attn_implementation = NAME
    with torch.device("meta"):
        model = PackedLlama(config, attention, one_shape=compile and one_shape)
    nn.Module.to(model, torch.promote_types(compute_dtype, torch.float32))
    _use_exact_norms(model, config)
    checkpoint_activations(model.model.layers, activation_checkpointing)
    if compile:
        for layer in model.model.layers:
            layer.forward = torch.compile(layer.forward, dynamic=not one_shape)
    if mesh is not None:
        _shard(model, mesh, compute_dtype, reshard_after_forward)
    model.to_empty(device=device)
    # Rotary frequencies are no weights: they are in no file, and computed anew where `to_empty` left nothing.
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device)
    _fill(model, WeightFiles(folder))
    model.train()
    return model


def _mesh_of_one(device: torch.device) -> DeviceMesh:
    """A mesh of this process alone."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    return init_device_mesh(device.type, (1,))


def _use_exact_norms(model: PackedLlama, config: LlamaConfig) -> None:
    """torch's RMSNorm for transformers', which computes in float32 even where the model is float64."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LlamaRMSNorm):
                norm = nn.RMSNorm(
                    config.hidden_size, config.rms_norm_eps, device=child.weight.device, dtype=child.weight.dtype
                )
                setattr(parent, name, norm)


def _shard(model: PackedLlama, mesh: DeviceMesh, compute_dtype: torch.dtype, reshard_after_forward: bool) -> None:
    precision = MixedPrecisionPolicy()
    if compute_dtype == torch.bfloat16:
        # Inputs are not cast: the only floating-point ones are the targets' weights, which have to stay exact.
        precision = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=precision, reshard_after_forward=reshard_after_forward)
    # Embeddings and output matrix are needed again at once by the backward pass: they stay gathered.
    fully_shard(model, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            # Without this, a factor is passed into the reduction itself, which gloo cannot do.
            module.set_force_sum_reduction_for_comms(True)


@torch.no_grad()
def _fill(model: nn.Module, files: WeightFiles) -> None:
    """Copy weights from files into parameters; of a sharded one, only this rank's rows are read."""
    parameters = dict(model.named_parameters())
    absent, unknown = parameters.keys() - files.names(), files.names() - parameters.keys()
    if absent or unknown:
        raise ModelError(
            f"{files.folder} does not fit its config.json: "
            f"missing weights {sorted(absent)[:3]}, unexpected weights {sorted(unknown)[:3]}. {AGAIN}"
        )
    for name, parameter in parameters.items():
        if isinstance(parameter, DTensor):
            # FSDP2 cuts the rows into equal pieces, rounded up; the last ranks may have fewer, or none.
            local, mesh = parameter.to_local(), parameter.device_mesh
            last = mesh.ndim - 1  # a dimension before it has replicas
            start = mesh.get_local_rank(last) * -(-len(parameter) // mesh.size(last))
            rows = slice(start, start + len(local))
        else:
            local, rows = parameter, slice(None)
        if local.numel():
            stored = files.read(name, rows)
            if stored.shape != local.shape:
                raise ModelError(
                    f"{files.folder}: {name} has shape {list(stored.shape)}, not {list(local.shape)}. {AGAIN}"
                )
            local.copy_(stored)
