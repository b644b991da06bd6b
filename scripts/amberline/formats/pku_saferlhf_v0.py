"""PKU-SafeRLHF as it was published first, and as AmberSafe was trained on."""

from amberline.formats.pku_saferlhf import PkuSafeRlhf

FORMAT = PkuSafeRlhf(
    "v0",
    "take what the published recipe used (revision ff7ba91063016c78a225b0f74e1c0860bb18230f, round0/train.jsonl.xz and "
    "round0/test.jsonl.xz; the hub's main branch is v1 since 2024-06), or set the source's `format: pku_saferlhf_v1`.",
)
