"""Metrics that the base libraries lack."""

from kdmm.evaluation.few_shot import FewShotMetric
from kdmm.evaluation.jigsaw import JigsawMetric
from kdmm.evaluation.joint import JointAccuracy

__all__ = ['FewShotMetric', 'JigsawMetric', 'JointAccuracy']
