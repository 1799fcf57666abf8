"""Figures of a pruned network: filters, multiply-adds by two counts, latency."""

import copy
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.models.pruned_resnet import residual_blocks
from kdmm.pruning.passes import backbone, images_for, pass_of
from kdmm.pruning.update import zero_filters


def paper_macs(model: Any, size: tuple[int, int], rate: float) -> tuple[float, int]:
    """Count a backbone's multiply-adds as the papers of soft filter pruning do.

    With r = 1 - rate, the first convolution counts r times its multiply-adds, as do the first ones
    of residual blocks, whose input is as wide as the stream; all others of blocks, and all of the
    first block, count r^2 times. Channels are fractions, shortcuts stay, what follows the backbone
    is ignored (SFP, IJCAI 2018, by the authors' code). A network that is really smaller computes
    more: its filters are whole, and its stem is dense.

    Args:
        model: The network with all of its filters, in eval mode.
        size: Height and width of the image.
        rate: Share of the filters that is pruned in each layer.

    Returns:
        Multiply-adds of the pruned and of the dense backbone.
    """
    macs = _macs_by_conv(model.backbone, lambda: backbone(model, images_for(model, size, 1)))
    left = 1 - rate
    factors: dict[str, float] = {}
    for number, (path, _, layout) in enumerate(residual_blocks(model.backbone)):
        for place, conv in enumerate(layout.convs):
            factors[f'{path}.{conv}'] = left if number and not place else left**2
    first = next(iter(factors))
    for place, name in enumerate(list(macs)[: list(macs).index(first)]):  # the stem
        factors[name] = left**2 if place else left
    return sum(value * factors.get(name, 1.0) for name, value in macs.items()), sum(macs.values())


def dense_again(masked: nn.Module) -> nn.Module:
    """A copy of a network whose zero filters are drawn anew, to measure its time."""
    model = copy.deepcopy(masked)
    generator = torch.Generator().manual_seed(0)
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d):
            zero = zero_filters(conv)
            noise = torch.randn(conv.weight.shape, generator=generator).to(conv.weight)
            conv.weight.data[zero] = noise[zero] * conv.weight[0].numel() ** -0.5
    return model


@torch.inference_mode()
def latencies(
    models: Mapping[str, nn.Module],
    size: tuple[int, int],
    batch: int = 1,
    repeats: int = 20,
    device: str = 'cpu',
    warmup: int = 3,
) -> dict[str, float]:
    """Measure the median time of a forward pass in ms; the models take turns.

    Args:
        models: By name, in eval mode; they are moved to ``device``.
        size: Height and width of the images.
        batch: Number of images.
        repeats: Passes of each model that count.
        device: Where to measure.
        warmup: Passes of each model before them.
    """
    first = next(iter(models.values()))
    run = pass_of(first, size)
    images = images_for(first, size, batch).to(device)
    times: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model.to(device)
    for _ in range(warmup + repeats):
        for name, model in models.items():
            _finish(images)
            start = time.perf_counter()
            run(model, images)
            _finish(images)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values[warmup:]) for name, values in times.items()}


def _finish(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)


@torch.no_grad()
def _macs_by_conv(net: nn.Module, run: Any) -> dict[str, int]:
    """Multiply-adds of each convolution, in the order in which they run."""
    found: dict[str, int] = {}
    hooks = []
    for name, conv in net.named_modules():
        if isinstance(conv, nn.Conv2d):

            def keep(conv: Any, _: Any, output: Tensor, name: str = name) -> None:
                found[name] = output[0, 0].numel() * conv.weight.numel()

            hooks.append(conv.register_forward_hook(keep))
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found
