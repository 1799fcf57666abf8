"""Random inputs of the losses, the same for every form of a case."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .naive import IGNORE

Shape = dict[str, int]
Inputs = dict[str, Any]


def features(shape: Shape, random: torch.Generator) -> Inputs:
    """Taps behind a ReLU: (B, student, h, w) and (B, teacher, h, w)."""
    # 0.01: at a pixel of zeros alone the textbook forms have no finite gradient
    size = (shape['height'], shape['width'])
    return {
        side: torch.randn(shape['batch'], shape[side], *size, generator=random).relu_().add_(0.01)
        for side in ('student', 'teacher')
    }


def logits(shape: Shape, random: torch.Generator) -> Inputs:
    """(B, classes, h, w) twice, of standard deviation 3."""
    size = (shape['batch'], shape['classes'], shape['height'], shape['width'])
    return {side: torch.randn(size, generator=random).mul_(3) for side in ('student', 'teacher')}


def labels(shape: Shape, random: torch.Generator) -> Tensor:
    """(B, h, w): tiles of one class each, one tile in twenty ignored."""
    side = min(8, shape['height'], shape['width'])
    grid = (shape['batch'], -(-shape['height'] // side), -(-shape['width'] // side))
    tiles = torch.randint(shape['classes'], grid, generator=random)
    tiles[torch.rand(grid, generator=random) < 0.05] = IGNORE
    whole = tiles.repeat_interleave(side, 1).repeat_interleave(side, 2)
    return whole[:, : shape['height'], : shape['width']].contiguous()


def labelled_features(shape: Shape, random: torch.Generator) -> Inputs:
    """`features`, labels at their resolution and the number of classes."""
    maps = features(shape, random)
    return dict(maps, labels=labels(shape, random), num_classes=shape['classes'])


def memory_rows(shape: Shape, random: torch.Generator) -> Inputs:
    """Unit rows of both networks and keys in two sections, four fifths and one fifth."""
    count = dict(student=shape['anchors'], teacher=shape['anchors'], keys=shape['keys'])
    rows = {
        name: F.normalize(torch.randn(number, shape['channels'], generator=random), dim=1)
        for name, number in count.items()
    }
    pixel = shape['keys'] * 4 // 5
    return dict(rows, sections=[pixel, shape['keys'] - pixel])


def teacher_rows(shape: Shape, random: torch.Generator) -> Inputs:
    """Unit rows (B, A, channels) of a teacher and labels (B, A)."""
    area = shape['height'] * shape['width']
    rows = torch.randn(shape['batch'], area, shape['channels'], generator=random).relu_()
    rows /= rows.norm(dim=2, keepdim=True).clamp_min_(1e-6)
    return dict(rows=rows, labels=labels(shape, random).flatten(1))


def embeddings(shape: Shape, random: torch.Generator) -> Inputs:
    """Unit rows (networks, B, channels) and labels (B,), two images a class."""
    size = (shape['networks'], shape['batch'], shape['channels'])
    rows = F.normalize(torch.randn(size, generator=random), dim=2)
    return dict(student=rows, labels=torch.arange(shape['batch']) // 2)


def staged(shape: Shape, random: torch.Generator) -> Inputs:
    """`embeddings` of all stages of all networks, and weights of their pairs, in (0, 1)."""
    total = shape['networks'] * shape['stages']
    rows = embeddings(dict(shape, networks=total), random)
    weights = torch.rand(total, total, shape['batch'], generator=random)
    return dict(rows, weights=weights, networks=shape['networks'])


def banked(shape: Shape, random: torch.Generator) -> Inputs:
    """Unit rows (networks, B, channels), a bank of images each, and the columns of every anchor."""
    count, width = shape['networks'], shape['channels']
    rows, banks = (
        F.normalize(torch.randn(count, number, width, generator=random), dim=2)
        for number in (shape['batch'], shape['images'])
    )
    index = torch.randint(
        shape['images'], (shape['batch'], 2 + shape['negatives']), generator=random
    )
    return dict(student=rows, banks=banks, index=index)


def layers(shape: Shape, random: torch.Generator) -> Inputs:
    """Three maps of each network: of classes, of channels, of classes."""
    maps = [
        {**features(shape, random), **(logits(shape, random) if i != 1 else {})} for i in range(3)
    ]
    return dict(
        student=maps[1]['student'],
        others=[maps[0]['student'], maps[2]['student']],
        teacher=[x['teacher'] for x in maps],
    )
