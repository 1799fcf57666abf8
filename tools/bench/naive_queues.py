"""CIRKD's memory written image by image and class by class, as the paper's code does."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255


class Queues:
    """CIRKD's class queues, written image by image and class by class.

    Args:
        num_classes: K.
        channels: C.
        pixel_size: Rows per class of the pixel queue.
        region_size: Rows per class of the region queue.
        per_image: Pixels of an image and class that enter.
    """

    def __init__(
        self, num_classes: int, channels: int, pixel_size: int, region_size: int, per_image: int
    ) -> None:
        self.per_image = per_image
        self.pixel = torch.zeros(num_classes, pixel_size, channels)
        self.region = torch.zeros(num_classes, region_size, channels)
        self.pixel_ptr = torch.zeros(num_classes, dtype=torch.long)
        self.region_ptr = torch.zeros(num_classes, dtype=torch.long)

    def to(self, device: torch.device) -> 'Queues':
        """Move everything."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    @torch.no_grad()
    def enqueue(self, rows: Tensor, labels: Tensor) -> None:
        """Unit rows (B, A, C) and labels (B, A)."""
        for image, members in zip(rows, labels, strict=True):
            for label in members.unique().tolist():
                if label == IGNORE:
                    continue
                found = image[members == label]
                region = F.normalize(found.mean(0), dim=0)
                at = int(self.region_ptr[label])
                self.region[label, at] = region
                self.region_ptr[label] = (at + 1) % self.region.shape[1]
                chosen = found[torch.randperm(len(found), device=rows.device)[: self.per_image]]
                at = int(self.pixel_ptr[label])
                slots = torch.arange(at, at + len(chosen), device=rows.device)
                self.pixel[label, slots % self.pixel.shape[1]] = chosen
                self.pixel_ptr[label] = (at + len(chosen)) % self.pixel.shape[1]
