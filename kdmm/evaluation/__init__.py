"""Metrics that the base libraries lack."""

from kdmm.evaluation.jigsaw import JigsawMetric

__all__ = ['JigsawMetric']
