"""A data set of which only the labels matter."""

from collections.abc import Sequence
from typing import Any, ClassVar

from mmengine.dataset import BaseDataset


class LabelsOnly(BaseDataset):
    """Image ``i`` is the number ``i``; subclasses give ``METAINFO`` and ``LABELS``."""

    LABELS: ClassVar[Sequence[int]]

    def __init__(self, labels: Sequence[int] | None = None, **options: Any) -> None:
        self.labels = self.LABELS if labels is None else labels
        super().__init__(**options)

    def load_data_list(self) -> list[dict]:
        return [dict(number=i, gt_label=label) for i, label in enumerate(self.labels)]

    def get_cat_ids(self, idx: int) -> list[int]:
        return [int(self.get_data_info(idx)['gt_label'])]
