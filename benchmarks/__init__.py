"""Losses, steps and data pipelines, measured; kdmm does not import it."""
