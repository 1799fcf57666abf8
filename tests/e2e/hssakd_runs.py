"""The configs of HSSAKD: which there are, of which networks, and what they read of each other."""

import copy
import itertools
import re
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from kdmm.engine import load_config
from kdmm.models.staging import staging_of

CONFIGS = Path(__file__).parents[2] / 'configs'
ALL = sorted(
    path.relative_to(CONFIGS).as_posix()
    for folder in ('hssakd', 'small/cifar10')
    for path in (CONFIGS / folder).glob('*.py')
    if not path.name.startswith('_base_')
)
PAPER = [name for name in ALL if name.endswith(('_cifar100.py', '_25percent.py', '_imagenet.py'))]
#: The same runs with another teacher's checkpoint; test_a_joint_teacher_is_another_checkpoint.
TWINS = {
    name: name.replace('hssakd_joint', 'hssakd')
    for name in ALL
    if 'hssakd_joint' in name and 'percent' not in name
}
#: Network -> parameters with 100 (ImageNet: 1000) classes, branches.
NETWORKS = {
    'wrn16_2': (703_284, 3),
    'wrn40_1': (569_780, 3),
    'wrn40_2': (2_255_156, 3),
    'resnet20': (278_324, 3),
    'resnet56': (861_620, 3),
    'resnet8x4': (1_233_540, 3),
    'resnet32x4': (7_433_860, 3),
    'vgg13': (9_462_180, 4),
    'mobilenetv2': (812_836, 4),
    'shufflenetv1': (949_258, 3),
    'shufflenetv2': (1_355_528, 3),
    'resnet50': (23_705_252, 4),
}
#: Networks whose preset has a longer name.
PRESETS = dict(mobilenetv2='mobilenetv2_stride1', shufflenetv2='shufflenetv2_1x1')
IMAGENET = {'resnet18': 11_689_512, 'resnet34': 21_797_672, 'resnet50': 25_557_032}
LIGHT = ('mobilenetv2', 'shufflenetv1', 'shufflenetv2')
PAIRS = (
    'wrn40_2_wrn16_2', 'wrn40_2_wrn40_1', 'resnet56_resnet20', 'resnet32x4_resnet8x4',
    'vgg13_mobilenetv2', 'resnet50_mobilenetv2', 'wrn40_2_shufflenetv1', 'resnet32x4_shufflenetv2',
)  # fmt: skip
TEACHERS = ('wrn40_2', 'resnet56', 'resnet32x4', 'vgg13', 'resnet50')
ONLINE = ('wrn40_2', 'wrn40_1', 'resnet56', 'resnet32x4', 'vgg13', *LIGHT)
#: Work dirs of docs/results/hssakd_small.md whose name is not their config's.
SMALL_RUNS = {
    'work_dirs/cifar10_small/teacher': 'small/cifar10/teacher.py',
    'work_dirs/cifar10_small/teacher_branches': 'hssakd/cifar10_small_teacher.py',
    'work_dirs/cifar10_small/teacher_joint': 'hssakd/cifar10_small_teacher_joint.py',
}


def read(name: str) -> Config:
    """The caller's to change; each file is parsed once."""
    return copy.deepcopy(_parsed(name))


@cache
def _parsed(name: str) -> Config:
    return load_config(str(CONFIGS / name))


def kind_of(cfg: Config) -> str:
    """``kd.type``; '' for a plain run."""
    return str(cfg.kd.get('type', 'Distiller')) if cfg.get('kd') else ''


def build(model: Any) -> Any:
    with MODELS.switch_scope_and_registry('mmpretrain') as registry:
        return registry.build(copy.deepcopy(model))


@cache
def branches_of(name: str) -> int:
    return branches_in(build(read(name).model))


def branches_in(model: Any) -> int:
    return len(staging_of(model.backbone).stage_names)


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def split_name(name: str) -> tuple[str, list[str]]:
    """``'hssakd/kd_wrn40_2_wrn16_2_cifar100.py'`` -> ``('kd', ['wrn40_2', 'wrn16_2'])``."""
    stem = re.sub('_(cifar100|cifar100_25percent|imagenet)$', '', Path(name).stem)
    roles = ('teacher_joint', 'hssakd_joint', 'baseline', 'teacher', 'hssakd', 'online', 'kd')
    role = next(role for role in roles if stem.startswith(f'{role}_'))
    known, rest = {*NETWORKS, *IMAGENET}, stem.removeprefix(f'{role}_')
    pairs = ([a, b] for a, b in itertools.product(known, known) if rest == f'{a}_{b}')
    return role, [rest] if rest in known else next(pairs)


def run_of(checkpoint: str) -> tuple[str, int]:
    """The config whose run leaves this file, and the epoch."""
    found = re.fullmatch(r'(work_dirs/.+)/epoch_(\d+)\.pth', checkpoint)
    assert found, checkpoint
    folder, epoch = found.groups()
    name = SMALL_RUNS.get(folder) or f'hssakd/{Path(folder).name}.py'
    assert folder in SMALL_RUNS or read(name).work_dir == folder
    return name, int(epoch)
