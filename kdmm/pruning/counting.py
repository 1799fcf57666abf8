"""Multiply-adds and parameters of a network."""

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdmm.pruning.passes import images_for, pass_of


class Count(NamedTuple):
    """Size of a network.

    Attributes:
        macs: Multiply-adds of one image, in convolutions and matrix products.
        parameters: Numbers in all of its parameters.
    """

    macs: int
    parameters: int


def count(model: nn.Module, size: tuple[int, int]) -> Count:
    """Count what a network computes for one image, by torch's FlopCounterMode.

    Args:
        model: In eval mode. Of a model that cannot run on images alone it is the backbone's
            multiply-adds, see `pass_of`.
        size: Height and width of the image.
    """
    run, image = pass_of(model, size), images_for(model, size, 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(model, image)
    parameters = sum(value.numel() for value in model.parameters())
    return Count(counter.get_total_flops() // 2, parameters)
