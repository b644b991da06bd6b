"""Machine and layout of a stage. Never changes a result, so never makes a finished stage run again."""

from typing import Literal

from pydantic import Field

from amberline.core.settings import Flag, HardwareSettings, Positive, PositiveCount


class Hardware(HardwareSettings):
    """Machines and layout of one training stage."""

    device: Literal["cuda", "cpu"] = Field(description="cuda or cpu")
    nodes: PositiveCount = Field(description="machines")
    ranks_per_node: PositiveCount = Field(description="processes on each: one a GPU on cuda")
    cpus_per_rank: PositiveCount = Field(description="cores for each process")
    memory_gb: PositiveCount = Field(description="main memory of each machine")
    hours: Positive = Field(description="time limit; a job that reaches it checkpoints and goes on in the next")
    micro_batch_tokens: PositiveCount | Literal["auto"] = Field(
        description="tokens a process computes at once; auto: chosen from model and memory"
    )
    attention: Literal["auto", "varlen", "flash", "efficient", "sdpa"] = Field(
        description="auto, varlen (torch), flash (flash-attn), efficient (torch, float32 too) or sdpa (by document)"
    )
    activation_checkpointing: Literal["auto", "full", "selective", "none"] = Field(
        description="what is recomputed in the backward pass to save memory"
    )
    reshard_after_forward: Flag | Literal["auto"] = Field(
        description="free gathered parameters after each layer's forward pass; auto: only where memory is short"
    )
    compile: Flag = Field(description="torch.compile each decoder layer")
    deterministic: Flag = Field(
        description="on cuda, only operations that give the same bits in every run, which are slower"
    )
