"""Accuracy of branches on joint labels of class and rotation."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.evaluator import BaseMetric
from torch import Tensor

from ..functional import ROTATIONS, class_marginals, joint_labels


class JointAccuracy(BaseMetric):
    """Accuracy of the branches in percent, as HSSAKD reports it (arXiv 2109.03075).

    ``joint/<branch>``: joint label of class and rotation, over all four views; ``class/<branch>``:
    class by the summed logits, on the unrotated view; ``joint/sum``: of the branches together, by
    which the reference chooses its ImageNet teacher.
    """

    default_prefix = ''

    def process(self, data_batch: Mapping[str, Tensor], data_samples: Sequence[Tensor]) -> None:
        """Take in a batch.

        Args:
            data_batch: Branch to logits (4B, 4C), interleaved.
            data_samples: Class of each image, (B,).
        """
        labels: Any = data_samples
        joint = joint_labels(labels)
        right = {}
        for name, logits in data_batch.items():
            hits = (logits.argmax(1) == joint).view(-1, ROTATIONS).float().mean(1)  # (B,)
            classes = class_marginals(logits[::ROTATIONS]).argmax(1) == labels
            right.update({f'joint/{name}': hits, f'class/{name}': classes.float()})
        columns = {key: value.tolist() for key, value in right.items()}
        for row in zip(*columns.values(), strict=True):
            self.results.append(dict(zip(columns, row, strict=True)))

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Means over the images."""
        means = {key: 100 * sum(row[key] for row in results) / len(results) for key in results[0]}
        total = sum(value for key, value in means.items() if key.startswith('joint/'))
        return {**means, 'joint/sum': total}
