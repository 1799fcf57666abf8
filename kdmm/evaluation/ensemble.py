"""Predictions of several networks as one."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def combine(samples: Sequence[Any]) -> Any | None:
    """One image's prediction by the mean of the networks' logits.

    Args:
        samples: MMPretrain's data sample of one image by each network, with ``pred_score``, or
            MMSegmentation's, with ``seg_logits``.

    Returns:
        A data sample like the first; None if there are no scores over at least two classes that
        exclude each other.
    """
    if all('pred_score' in sample for sample in samples):
        scores = torch.stack([sample.pred_score for sample in samples])  # (N, C)
        return _classified(samples[0], scores.float())
    if all('seg_logits' in sample for sample in samples):
        logits = torch.stack([sample.seg_logits.data for sample in samples])  # (N, C, H, W)
        return _segmented(samples[0], logits.mean(0))
    return None


def _classified(sample: Any, scores: Tensor) -> Any | None:
    # also scores that are no numbers are of classes: all ranks must come to one decision
    if scores.shape[1] < 2 or bool(((scores.sum(1) - 1).abs() > 1e-3).any()):
        return None  # of several labels an image: each score by itself
    # softmax(mean of z) is proportional to exp(mean of log softmax(z))
    mean = scores.clamp_min(torch.finfo(scores.dtype).tiny).log().mean(0).softmax(0)
    result = copy.copy(sample)
    return result.set_pred_score(mean).set_pred_label(mean.argmax(0, keepdim=True))


def _segmented(sample: Any, logits: Tensor) -> Any | None:
    if len(logits) < 2:
        return None  # one channel and a threshold
    result = copy.deepcopy(sample)
    result.seg_logits.data = logits
    result.pred_sem_seg.data = logits.argmax(0, keepdim=True)
    return result
