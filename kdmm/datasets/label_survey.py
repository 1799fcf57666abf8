"""Classes that occur in the annotations of a few samples, read before training.

Annotations are read as the pipeline reads them, without images, augmentation or workers; no random
number is drawn and nothing is changed.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdmm.datasets.label_maps import LabelMapCheck, local, reader_of
from kdmm.datasets.seeded import seeded
from kdmm.datasets.wrappers import leaf_datasets
from kdmm.errors import ConfigError

#: At most so many label maps, or annotations that need no file, of a data set; and no longer.
MAPS, ANNOTATIONS, SECONDS = 200, 10_000, 2.0


@dataclass
class LabelSurvey:
    """Classes seen in the samples of one data set.

    Attributes:
        names: Of the classes, or joints.
        kind: How a message calls a sample.
        total: Number of samples that the data set has.
        sampled: Number of samples that were read.
        seen: Class to the first sample that has it.
    """

    names: Sequence[Any]
    kind: str
    total: int
    sampled: int = 0
    seen: dict[int, str] = field(default_factory=dict)

    def absent(self) -> list[int]:
        """Classes that never occur; an empty list if nothing is labelled."""
        return [c for c in range(len(self.names)) if c not in self.seen] if self.seen else []

    def wrong(self, num_classes: int, ignored: Sequence[int]) -> list[tuple[int, str]]:
        """Labels that are no class, each with its sample."""
        return [
            (label, where)
            for label, where in self.seen.items()
            if not 0 <= label < num_classes and label not in ignored
        ]


def survey_labels(dataset: Any) -> LabelSurvey | None:
    """Read the labels of samples spread over ``dataset``; None where it has no annotations.

    Raises:
        ConfigError: As `LabelMapCheck`.
    """
    metainfo = getattr(dataset, 'metainfo', None) or {}
    if not hasattr(dataset, 'get_data_info') or not hasattr(dataset, '__len__'):
        return None
    found: LabelSurvey | None = None
    reader = _reader(dataset)
    stop = time.monotonic() + SECONDS
    for index in _spread(len(dataset), MAPS if reader else ANNOTATIONS):
        try:
            info = dataset.get_data_info(index)
            labels, kind = _labels(info, reader)
        except ConfigError:
            raise
        except Exception:  # a data set or transform of somebody's own: training will tell
            return found
        if labels is None:
            return found
        if found is None:
            joints = metainfo.get('keypoint_id2name') or {}
            names = list(joints.values()) if kind == 'persons' else metainfo.get('classes')
            if not names or isinstance(names, str):
                return None
            found = LabelSurvey(names, kind, len(dataset))
        found.sampled += 1
        for label in labels:
            found.seen.setdefault(int(label), str(info.get('seg_map_path') or info.get('img_path')))
        done = reader is None and found.sampled > 50 and not found.absent()
        if done or time.monotonic() > stop:
            break
    return found


def survey_warning(survey: LabelSurvey, key: str) -> str:
    """A warning of classes that never occur, or of no label at all; else nothing."""
    absent = survey.absent()
    if survey.kind == 'images' and survey.sampled and not survey.seen and key.startswith('train'):
        return (
            f'{key}: no label in any of the {survey.sampled} images looked at (of {survey.total})'
        )
    if not absent:
        return ''
    names = ', '.join(f'{label} ({survey.names[label]})' for label in absent[:10])
    rest = f' and {len(absent) - 10} more' if absent[10:] else ''
    what = 'joints' if survey.kind == 'persons' else 'classes'
    text = (
        f'{key}: {len(absent)} of {len(survey.names)} {what} occur in none of the {survey.sampled} '
        f'{survey.kind} looked at (of {survey.total}): {names}{rest}'
    )
    if survey.kind == 'label maps' and len(survey.names) == 2 and set(survey.seen) == {0, 255}:
        text += (
            '. They hold 0 and 255 alone, and 255 is ignored, so there is nothing to tell apart: '
            'if 255 is the second class, write it as 1'
        )
    return text


def _spread(total: int, most: int) -> list[int]:
    """At most ``most`` different indices, the same in all runs; a grid may miss every other class.

    RandomState: NumPy keeps its stream the same for all versions, and no other generator moves.
    """
    return np.random.RandomState(0).permutation(total)[:most].tolist()


def _reader(dataset: Any) -> list[Any] | None:
    """Copies of the transform that reads label maps, and of the check behind it."""
    for leaf in leaf_datasets(dataset):
        transforms, index = reader_of(leaf)
        if index >= 0:
            behind = transforms[index + 1 : index + 2]
            checks = [step for step in behind if isinstance(step, LabelMapCheck)]
            return [copy.deepcopy(step) for step in (transforms[index], *checks)]
    return None


def _labels(info: dict[str, Any], reader: list[Any] | None) -> tuple[Any, str]:
    """The classes of one sample, or None, and how a message calls such samples."""
    if reader is not None:
        known = local(info.get('seg_map_path'))
        return (_of_label_map(info, reader) if known else None), 'label maps'
    if 'instances' in info:
        kept = (i for i in info['instances'] if not i.get('ignore_flag'))
        return [i['bbox_label'] for i in kept if 'bbox_label' in i], 'images'
    if 'keypoints_visible' in info:
        visible = np.asarray(info['keypoints_visible'])  # (N, K) or (N, K, 2)
        visible = visible[..., 0] if visible.ndim == 3 else visible
        return np.flatnonzero((visible > 0).any(axis=0)), 'persons'
    label = np.atleast_1d(info.get('gt_label', ()))
    return (label if label.dtype.kind in 'iu' and label.size else None), 'images'


def _of_label_map(info: dict[str, Any], reader: list[Any]) -> Any:
    """Labels of one map, by the pipeline's own transform."""
    results: dict[str, Any] = copy.deepcopy(info)
    results.setdefault('seg_fields', [])
    size = _size(info.get('img_path'))
    if size is not None:
        results['ori_shape'] = size
    with seeded((0,)):  # should a transform draw, no one else's numbers change
        for step in reader:
            results = step(results)
    labels = results.get('gt_seg_map')
    if labels is None or labels.dtype != np.uint8:
        return None if labels is None else np.unique(labels)
    return np.flatnonzero(np.bincount(labels.ravel(), minlength=256))  # four times as fast


def _size(path: Any) -> tuple[int, int] | None:
    """(H, W) of a local picture that nobody turns; its head alone is read."""
    from PIL import Image  # a requirement of mmcv

    if not local(path):
        return None
    try:
        with Image.open(path) as picture:
            turned = picture.getexif().get(0x0112, 1) != 1  # EXIF's orientation
            return None if turned else (picture.height, picture.width)
    except OSError:
        return None
