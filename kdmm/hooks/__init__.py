"""Hooks: ownership of checkpoint entries, seeds, and checks that stop a run."""

from kdmm.hooks.branch_accuracy import BranchAccuracyHook
from kdmm.hooks.buffers import BuffersHook
from kdmm.hooks.checkpoint import CheckpointHook
from kdmm.hooks.distill import DistillHook
from kdmm.hooks.features import FeaturesHook
from kdmm.hooks.interrupt import Interrupted, InterruptHook
from kdmm.hooks.jigsaw import JigsawHook
from kdmm.hooks.jigsaw_sheet import JigsawSheetHook
from kdmm.hooks.labels import LabelRangeHook
from kdmm.hooks.matching import MatchingHook
from kdmm.hooks.nonfinite import NonFiniteError, NonFiniteLossHook
from kdmm.hooks.ownership import OwnershipHook
from kdmm.hooks.peers import PeersHook
from kdmm.hooks.pretrained import PretrainedBackboneHook
from kdmm.hooks.recalibrate import RecalibrateBNHook
from kdmm.hooks.reproducible import StepSeedHook, StreamSeedHook
from kdmm.hooks.running_line import RunningLineHook
from kdmm.hooks.soft_filter_pruning import SoftFilterPruningHook
from kdmm.hooks.stages import StagesHook
from kdmm.hooks.summary import RunSummaryHook

__all__ = [
    'BranchAccuracyHook',
    'BuffersHook',
    'CheckpointHook',
    'DistillHook',
    'FeaturesHook',
    'InterruptHook',
    'Interrupted',
    'JigsawHook',
    'JigsawSheetHook',
    'LabelRangeHook',
    'MatchingHook',
    'NonFiniteError',
    'NonFiniteLossHook',
    'OwnershipHook',
    'PeersHook',
    'PretrainedBackboneHook',
    'RecalibrateBNHook',
    'RunSummaryHook',
    'RunningLineHook',
    'SoftFilterPruningHook',
    'StagesHook',
    'StepSeedHook',
    'StreamSeedHook',
]
