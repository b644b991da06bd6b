"""Turn a published policy.pt into a model folder that a training can start from.

`policy.pt` is what the DPO reference implementation writes: {"step_idx", "state", "metrics"}. It holds weights alone;
configuration and tokenizer come from the model that its training started from.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from amberline.core.digests import file_digest
from amberline.core.ending import one_message
from amberline.core.files import whole_folder
from amberline.core.manifests import ManifestError, model_content, verify, write_manifest


def main(
    policy: Annotated[Path, typer.Option(help="the policy.pt")],
    base: Annotated[Path, typer.Option(help="folder of the model that its training started from")],
    output: Annotated[Path, typer.Option(help="Hugging Face folder to write")],
) -> None:
    """Turn a published policy.pt into a model folder, in float32."""
    import torch

    from amberline.hub.model_names import ModelError
    from amberline.model.export import write_model_folder
    from amberline.model.weights import PolicyWeights

    with one_message("import_policy", ManifestError, ModelError):
        verify(base)
        weights = PolicyWeights(policy)
        with whole_folder(output) as folder:
            write_model_folder(weights, base, folder, torch.float32, chat_template=None, end_ids=None)
            write_manifest(
                folder,
                kind="model",
                files=list(folder.iterdir()),
                inputs={"base": base},
                settings={},
                facts={"policy_sha256": file_digest(policy)},
                digest=model_content(folder),
            )
    print(f"{output}: the weights of {policy}, as a model folder", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
