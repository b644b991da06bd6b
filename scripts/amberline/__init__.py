"""Amberline: raw datasets in, AmberChat and AmberSafe out.

The layers, and what each may import, are in docs/architecture.md.
"""
