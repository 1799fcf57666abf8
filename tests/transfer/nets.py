"""Backbones of all libraries, built and run without the code under test."""

import copy
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from torch import Tensor, nn

MM = ('mmpose', 'mmseg', 'mmdet', 'mmpretrain')
EVERY = (*MM, 'torchvision', 'timm')
RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)


def hrnet(width: int = 4, all_outputs: bool | None = None, **extra: Any) -> dict[str, Any]:
    """An HRNet of the standard form. ``all_outputs`` is mmpose's way to say so."""
    stages: dict[str, Any] = dict(
        stage1=dict(num_modules=1, num_branches=1, block='BOTTLENECK', num_blocks=(4,),
                    num_channels=(64,)))  # fmt: skip
    for branches, modules in ((2, 1), (3, 4), (4, 3)):
        stages[f'stage{branches}'] = dict(
            num_modules=modules,
            num_branches=branches,
            block='BASIC',
            num_blocks=(4,) * branches,
            num_channels=tuple(width * 2**branch for branch in range(branches)),
        )
    if all_outputs is not None:
        stages['stage4']['multiscale_output'] = all_outputs
    return dict(type='HRNet', extra=stages | extra)


def build(library: str, config: dict[str, Any], **more: Any) -> nn.Module:
    net = MODELS.build(ConfigDict(copy.deepcopy(config), _scope_=library, **more))
    net.eval()
    return net


def shake(net: nn.Module) -> nn.Module:
    """Give every weight and statistic a value of its own."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith('num_batches_tracked'):
                value.fill_(7)
            elif value.dim() > 1:
                scale = value[0].numel() ** -0.5
                value.copy_(torch.randn(value.shape, generator=generator) * scale)
            else:
                value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.5)
    return net


def source(library: str, config: dict[str, Any], path: Path, **data: Any) -> nn.Module:
    """A checkpoint as MMEngine's Runner writes it, with a head beside the backbone."""
    net = shake(build(library, config))
    state = {f'backbone.{key}': value for key, value in net.state_dict().items()}
    state['head.fc.weight'] = torch.randn(3, 8)
    text = config_of(library, config, **data).pretty_text
    torch.save(dict(meta=dict(cfg=text, epoch=3), state_dict=state, optimizer=dict()), path)
    return net


def config_of(library: str, config: dict[str, Any], **data: Any) -> Config:
    model = dict(type='Whatever', data_preprocessor=RGB | data, backbone=config)
    return Config(dict(default_scope=library, model=model))


def estimator(backbone: dict, channels: int = 64, joints: int = 5, **more) -> Config:
    """A pose estimator of mmpose with a small head."""
    head = dict(
        type='HeatmapHead',
        in_channels=channels,
        out_channels=joints,
        deconv_out_channels=(8,),
        deconv_kernel_sizes=(4,),
        loss=dict(type='KeypointMSELoss'),
        decoder=dict(type='MSRAHeatmap', input_size=(32, 32), heatmap_size=(8, 8), sigma=2),
    )
    model = dict(type='TopdownPoseEstimator', backbone=backbone, head=head)
    return Config(dict(default_scope='mmpose', model=model | more))


def write_config(path: Path, library: str, config: dict[str, Any], **model: Any) -> str:
    cfg = config_of(library, config)
    cfg.model.update(model)
    cfg.dump(path)
    return str(path)


def loaded(library: str, config: dict[str, Any] | str, path: Path | str) -> nn.Module:
    """The target as its user gets it from the file."""
    if library == 'timm':
        net = timm.create_model(config, num_classes=0, checkpoint_path=str(path))
    elif library == 'torchvision':
        net = torchvision.models.get_model(config)
        net.fc = nn.Identity()
        net.load_state_dict(torch.load(path, weights_only=True), strict=True)
    else:
        init = dict(type='Pretrained', checkpoint=str(path))
        net = build(library, {**config, 'init_cfg': init})
        net.init_weights()
    net.eval()
    return net


@torch.no_grad()
def maps(net: nn.Module, size: tuple[int, int] = (64, 96)) -> list[Tensor]:
    """Outputs of the four stages of a ResNet, of the last stage of an HRNet."""
    found: list[Tensor] = []
    image = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(9))
    for name, stage in net.named_children():
        if name == 'stage4' or (name.startswith('layer') and not hasattr(net, 'stage4')):
            stage.register_forward_hook(lambda *x: found.extend(_tensors(x[2])))
    net(image)
    return found


def _tensors(output: Any) -> list[Tensor]:
    return [x.clone() for x in (output if isinstance(output, list | tuple) else [output])]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) > 0 and all(map(torch.equal, ours, theirs))
