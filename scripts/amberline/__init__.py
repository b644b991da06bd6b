"""Amberline: raw datasets in, AmberChat and AmberSafe out.

The layers, each importing only those above it: settings, records, text, batches, model, training, provenance.
"""
