"""Metrics that the base libraries lack."""

from kdmm.evaluation.jigsaw import JigsawMetric
from kdmm.evaluation.joint import JointAccuracy

__all__ = ['JigsawMetric', 'JointAccuracy']
