"""PKU-SafeRLHF as the hub's main branch has it since 2024-06: more columns, other labels."""

from amberline.formats.pku_saferlhf import PkuSafeRlhf

FORMAT = PkuSafeRlhf(
    "v1",
    "It is what the published recipe used: set the source's `format: pku_saferlhf_v0`, or take the hub's main branch.",
)
