"""What one has to know of a Slurm cluster. None of it changes a result, nor what has to run."""

from typing import Annotated

from pydantic import Field

from amberline.core.settings import HardwareSettings, PositiveCount

# As Slurm and environment modules spell names; nothing that a shell would act upon.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/+-]+$")]
GpuModel = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")]  # what Snakemake's executor passes on
NodeFolder = Annotated[str, Field(pattern=r"^[/$][A-Za-z0-9_./${}-]*$")]  # variables are those of the node
Features = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.&|*()\[\]-]+$")]


class Cluster(HardwareSettings):
    """A user's cluster, as `slurm/site.yaml` describes it."""

    data_partition: Name | None = Field(description="partition of the data stages; null: the cluster's default")
    training_partition: Name | None = Field(
        description="partition of the stages that run a model; null: the cluster's default"
    )
    account: Name | None = Field(description="account to charge; null: your default one, if the cluster has accounts")
    gpu_model: GpuModel | None = Field(description="GPU to ask for, as the cluster calls it; null: any")
    constraint: Features | None = Field(description="node features that GPU jobs need, as for sbatch -C; null: none")
    modules: list[Name] = Field(description="environment modules to load before each program; []: none")
    scratch: NodeFolder | None = Field(
        description="folder on each node's own disk for a copy of a training's tokens; null: none"
    )
    grace_seconds: PositiveCount = Field(
        description="how long before its time limit a training is told to save its state and to go on in the next job"
    )
