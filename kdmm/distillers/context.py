"""What a loss may ask for besides the two activations.

A loss names its needs in ``needs``; this table says where each comes from in the base libraries'
data samples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.errors import ConfigError


def labels(samples: Sequence[Any]) -> Tensor:
    """Class indices: (B, H, W) of a segmentation batch, (B,) of a classification batch, int64."""
    if samples and hasattr(samples[0], 'gt_sem_seg'):
        return torch.stack([sample.gt_sem_seg.data.squeeze(0) for sample in samples]).long()
    if samples and hasattr(samples[0], 'gt_label'):
        return torch.cat([sample.gt_label for sample in samples]).long()
    raise ConfigError(
        "a loss in kd.losses needs 'labels', but the data samples carry neither gt_sem_seg nor "
        'gt_label: does the training pipeline load annotations?'
    )


def sample_ids(samples: Sequence[Any]) -> Tensor:
    """Number of each image in its data set, (B,) int64 on the CPU."""
    if samples and all(getattr(sample, 'sample_idx', None) is not None for sample in samples):
        return torch.tensor([int(sample.sample_idx) for sample in samples])
    raise ConfigError(
        "a loss in kd.losses needs 'sample_ids', but the data samples carry no sample_idx: has the "
        "pipeline's last transform (PackInputs) meta_keys without 'sample_idx'? Add it to them; "
        "data sets that derive from MMEngine's BaseDataset give it"
    )


def keypoint_weights(samples: Sequence[Any]) -> Tensor:
    """Weight of each keypoint of a top-down pose batch, (B, K) float32; 0: not labelled."""
    found = [_keypoint_weights(sample) for sample in samples]
    if found and all(weights is not None for weights in found):
        return torch.cat([torch.as_tensor(weights) for weights in found]).float()
    raise ConfigError(
        "a loss in kd.losses needs 'keypoint_weights', but the data samples carry no "
        "gt_instance_labels.keypoint_weights: does the training pipeline have MMPose's "
        'GenerateTarget before PackPoseInputs?'
    )


def _keypoint_weights(sample: Any) -> Any:
    labels = getattr(sample, 'gt_instance_labels', None)
    return getattr(labels, 'keypoint_weights', None)


PROVIDERS: Mapping[str, Callable[[Sequence[Any]], Any]] = dict(
    labels=labels, sample_ids=sample_ids, keypoint_weights=keypoint_weights
)


def gather_context(needs: Sequence[str], samples: Sequence[Any] | None) -> dict[str, Any]:
    """Return the named context of one batch, all of `PROVIDERS`."""
    return {need: PROVIDERS[need](samples or ()) for need in needs}


def task_facts(student: nn.Module) -> dict[str, int]:
    """``num_classes`` and ``ignore_index`` of the student, where its head says them."""
    head = output_head(student)
    names = ('num_classes', 'ignore_index')
    return {name: getattr(head, name) for name in names if hasattr(head, name)}


def output_head(student: nn.Module) -> nn.Module | None:
    """The head whose classes are the task's; of a cascade the last stage."""
    for owner in (student, getattr(student, 'roi_head', None)):  # two-stage detectors
        for name in ('decode_head', 'head', 'bbox_head'):
            head = getattr(owner, name, None)
            if isinstance(head, nn.ModuleList):
                head = head[-1]
            if head is not None:
                return head
    return None
