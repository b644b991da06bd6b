"""PKU-SafeRLHF as the hub's main branch has it since 2024-06: more columns, other labels."""

from amberline.formats.pku_saferlhf import PkuSafeRlhf

FORMAT = PkuSafeRlhf(
    "v1",
    "set the source's `format: pku_saferlhf_v0`, which the published recipe used, or take the hub's main branch.",
)
