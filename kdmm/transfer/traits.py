"""What changes the features of a network and not the shapes of its weights."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def no_traits(net: nn.Module) -> dict[str, Any]:
    """Of a network that nothing is known of: the comparison of features decides alone."""
    return {}


def any_traits(net: nn.Module) -> dict[str, Any]:
    """What changes the features of a network of convolutions and not its weights."""
    layers = list(net.modules())
    return dict(
        norm=_listed({_norm(layer) for layer in layers} - {''}),
        activation=_listed(
            {
                type(layer).__name__
                for layer in layers
                if type(layer).__module__ == 'torch.nn.modules.activation'
            }
        ),
        convolution=_listed({type(x).__name__ for x in layers if isinstance(x, nn.Conv2d)}),
        upsample=_listed({str(x.mode) for x in layers if isinstance(x, nn.Upsample)
                          or type(x).__name__ == 'Upsample'}),
    )  # fmt: skip


def resnet_traits(net: nn.Module) -> dict[str, Any]:
    """Of the libraries' ResNets; torchvision and timm have the pytorch style."""
    pools = any('.downsample.' in name and isinstance(layer, nn.AvgPool2d)
                for name, layer in net.named_modules())  # fmt: skip
    deep = hasattr(net, 'stem') or isinstance(getattr(net, 'conv1', None), nn.Sequential)
    bottleneck = any(name == 'layer1.0.conv3' for name, _ in net.named_modules())
    return dict(
        deep_stem=bool(getattr(net, 'deep_stem', deep)),
        avg_down=bool(getattr(net, 'avg_down', pools)),
        **(dict(style=getattr(net, 'style', 'pytorch')) if bottleneck else {}),
        **any_traits(net),
    )


def _norm(layer: nn.Module) -> str:
    if isinstance(layer, _BatchNorm):
        return f'BatchNorm eps {layer.eps:g}'  # synchronised or not: the same in eval mode
    if isinstance(layer, nn.GroupNorm):
        return f'GroupNorm({layer.num_groups}) eps {layer.eps:g}'
    return f'LayerNorm eps {layer.eps:g}' if isinstance(layer, nn.LayerNorm) else ''


def _listed(names: set[str]) -> str:
    return ', '.join(sorted(names)) or 'none'
