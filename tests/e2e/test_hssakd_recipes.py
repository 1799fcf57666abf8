"""The configs of HSSAKD: networks and recipes of the papers, and what they read of each other."""

import copy
import itertools
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

pytest.importorskip('mmpretrain')

from kdmm.models import StagedBackbone  # noqa: E402
from kdmm.models.backbones import CIFAR_PRESETS  # noqa: E402
from kdmm.models.staging import staging_of  # noqa: E402
from kdmm.teachers.teacher import load_model_config  # noqa: E402
from kdmm.teachers.zoo import zoo_checkpoint  # noqa: E402

from .config_table import CONFIGS, FAMILIES, kind_of, read  # noqa: E402
from .tiny_data import walk  # noqa: E402

ALL = FAMILIES['hssakd'].names
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


# what they read of each other


def test_all_runs_of_the_tables_exist() -> None:
    expected = {
        *(f'baseline_{net}_cifar100.py' for net in NETWORKS),
        *(f'{role}_{net}_cifar100.py' for net in TEACHERS for role in ('teacher', 'teacher_joint')),
        *(f'{role}_{pair}_cifar100.py' for pair in PAIRS for role in ('kd', 'hssakd')),
        *(f'hssakd_joint_{pair}_cifar100.py' for pair in PAIRS),
        *(f'online_{net}_cifar100.py' for net in ONLINE),
        'hssakd_joint_resnet56_resnet20_cifar100_25percent.py',
        *(f'{role}_resnet34_imagenet.py' for role in ('teacher', 'teacher_joint')),
        *(f'{role}_resnet34_resnet18_imagenet.py' for role in ('kd', 'hssakd', 'hssakd_joint')),
        *(f'online_{net}_imagenet.py' for net in ('resnet18', 'resnet50')),
    }
    assert set(PAPER) == {f'hssakd/{name}' for name in expected}


@pytest.mark.parametrize('name', PAPER)
def test_name_says_the_networks(name: str) -> None:
    """``<role>_[<teacher>_]<network>_<data>``, with the models of the networks' own files."""
    cfg, (role, networks) = read(name), split_name(name)
    suffix = '_imagenet' if 'imagenet' in name else ''
    file = f'hssakd/_base_/{networks[-1]}{suffix}.py'
    if not suffix:
        file = f'_base_/models/cifar/{PRESETS.get(networks[-1], networks[-1])}.py'
    own = Config.fromfile(CONFIGS / file).model
    model = cfg.model.to_dict()
    if role == 'kd' and suffix:
        assert model['head']['loss'].pop('loss_weight') == 0.5
        own.head.loss.pop('loss_weight')
    assert model == own.to_dict()
    if len(networks) == 2:
        zoo = f'mmpretrain::resnet/{networks[0]}_8xb32_in1k.py'
        ours = f'kdmm::hssakd/baseline_{networks[0]}_cifar100.py'
        assert cfg.kd.teacher.config == (zoo if suffix else ours)


@pytest.mark.parametrize('name', ALL)
def test_inputs_are_what_other_configs_leave(name: str) -> None:
    """Teacher and ``load_from``: published, or the last epoch of a run of the right kind."""
    cfg = read(name)
    kind, kd = kind_of(cfg), cfg.get('kd') or {}
    if kind in ('Distiller', 'HSSAKD'):
        model = load_model_config(kd.teacher.config)[0]
        check_input(kd.teacher.checkpoint, kd.teacher.config, model, branched=kind == 'HSSAKD')
        if kind == 'HSSAKD':
            run = run_of(kd.teacher.checkpoint)[0]
            assert bool(read(run).kd.get('joint')) == ('_joint' in name)
            assert branches_of(run) == branches_of(name)
    needs_start = kind == 'HSSAKDTeacher' and not kd.get('joint')
    assert (cfg.get('load_from') is not None) == needs_start
    if needs_start:
        zoo = 'mmpretrain::resnet/resnet34_8xb32_in1k.py'
        check_input(cfg.load_from, zoo, cfg.model, branched=False)


def check_input(checkpoint: str, config: str, model: Any, branched: bool) -> None:
    if checkpoint == 'zoo' or '://' in checkpoint:
        assert not branched
        url = zoo_checkpoint(config)
        assert url.startswith('https://') and checkpoint in ('zoo', url)
        return
    run, epoch = run_of(checkpoint)
    cfg = read(run)
    assert epoch == cfg.train_cfg.max_epochs
    assert kind_of(cfg) == ('HSSAKDTeacher' if branched else '')
    theirs = without_start(model)
    assert theirs.pop('data_preprocessor', cfg.data_preprocessor) == cfg.data_preprocessor
    assert without_start(cfg.model) == theirs


def without_start(model: Any) -> Any:
    """A model's config without what only says how its weights begin."""
    plain = copy.deepcopy(model.to_dict() if hasattr(model, 'to_dict') else dict(model))
    for part, key in (('backbone', 'zero_init_residual'), ('head', 'init_cfg')):
        plain[part].pop(key, None)
    walk(plain, lambda node: node.pop('_scope_', None))
    return plain


@pytest.mark.parametrize('name', TWINS)
def test_a_joint_teacher_is_another_checkpoint(name: str) -> None:
    """Nothing else."""
    joint, plain = read(name).to_dict(), read(TWINS[name]).to_dict()
    assert joint['kd']['teacher'].pop('checkpoint') != plain['kd']['teacher'].pop('checkpoint')
    assert joint.pop('work_dir') != plain.pop('work_dir')
    assert joint == plain


# networks and recipes


@pytest.mark.parametrize('name', PAPER)
def test_recipe_is_the_papers(name: str) -> None:
    cfg, (role, networks) = read(name), split_name(name)
    optimizer = cfg.optim_wrapper.optimizer
    frozen = role == 'teacher' or 'imagenet' in name
    assert (optimizer.type, optimizer.momentum) == ('SGD', 0.9)
    assert cfg.param_scheduler.type == 'MultiStepLR'
    assert cfg.param_scheduler.milestones == ([30, 60, 90] if frozen else [150, 180, 210])
    assert cfg.param_scheduler.by_epoch and cfg.param_scheduler.gamma == 0.1
    assert cfg.train_cfg.max_epochs == (100 if frozen else 240)
    assert cfg.train_cfg.val_interval == 1
    assert set(cfg.optim_wrapper) == {'optimizer'}  # no clipping, one parameter group
    assert not cfg.train_dataloader.get('drop_last')
    common = (optimizer.lr, optimizer.weight_decay, optimizer.get('nesterov', False))
    if 'imagenet' in name:
        assert common == (0.1, 1e-4, False)
        assert 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 256
    else:
        assert common == (0.01 if networks[-1] in LIGHT else 0.05, 5e-4, True)
        assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 64


@pytest.mark.parametrize('name', ALL)
def test_constants_are_the_papers(name: str) -> None:
    cfg = read(name)
    kind, kd = kind_of(cfg), (cfg.get('kd') or Config()).to_dict()
    for key in ('teacher', 'channels_last', 'evaluate_branches'):
        kd.pop(key, None)
    weight = 0.9 if 'imagenet' in name else 1.0
    loss = dict(type='KDLoss', on='logits', temperature=4.0, weight=weight)
    expected: dict[str, Any] = {
        '': {},
        'Distiller': dict(taps=dict(logits='head.fc.out'), losses=dict(kd=loss)),
        'HSSAKD': dict(type='HSSAKD'),
        'HSSAKDTeacher': dict(
            type='HSSAKDTeacher', **(dict(joint=True) if 'joint' in name else {})
        ),
        'HSSAKDOnline': dict(type='HSSAKDOnline', peers=2),
    }
    if kind == 'Distiller':
        kd['losses']['kd'].setdefault('weight', 1.0)
    assert kd == expected[kind]


@pytest.mark.parametrize('name', PAPER)
def test_the_last_and_the_best_are_kept(name: str) -> None:
    """A frozen network's accuracy is constant; ImageNet teachers are chosen by their branches."""
    cfg = read(name)
    checkpoint, kd = cfg.default_hooks.checkpoint, cfg.get('kd') or {}
    by_branches = bool(kd.get('evaluate_branches'))
    assert by_branches == ('/teacher_' in name and ('imagenet' in name or 'joint' not in name))
    assert checkpoint.save_best == ('joint/sum' if by_branches else 'accuracy/top1')
    assert (checkpoint.rule, checkpoint.max_keep_ckpts) == ('greater', 1)
    assert cfg.train_cfg.max_epochs % checkpoint.interval == 0


@pytest.mark.parametrize('network', NETWORKS)
def test_cifar_network(network: str) -> None:
    cfg = read(f'hssakd/baseline_{network}_cifar100.py').model
    model = build(cfg)
    assert (parameters_of(model), branches_in(model)) == NETWORKS[network]
    preset = CIFAR_PRESETS[PRESETS.get(network, network)]  # no count tells the stem's stride
    kind = preset['type'].removeprefix('mmpretrain.')
    assert cfg.backbone.to_dict() | preset | dict(type=kind) == cfg.backbone.to_dict()
    if isinstance(model.backbone, StagedBackbone):
        assert cfg.head.init_cfg == model.backbone.head_init
    else:
        assert cfg.head.init_cfg is None and cfg.backbone.zero_init_residual is False


@pytest.mark.parametrize('network', IMAGENET)
def test_imagenet_network(network: str) -> None:
    """It is the base library's config but for the start and the checkpoints that are kept."""
    ours = Config.fromfile(CONFIGS / f'hssakd/_base_/{network}_imagenet.py').to_dict()
    base = f"_base_ = 'mmpretrain::resnet/{network}_8xb32_in1k.py'"
    theirs = Config.fromstring(base, '.py').to_dict()
    assert parameters_of(build(ours['model'])) == IMAGENET[network]
    assert ours['model']['backbone'].pop('zero_init_residual') is False
    assert ours['model']['head'].pop('init_cfg', 0) is None
    for cfg in (ours, theirs):
        cfg['default_hooks'].pop('checkpoint')
    assert ours == theirs


def test_few_labels() -> None:
    few = read('hssakd/hssakd_joint_resnet56_resnet20_cifar100_25percent.py')
    full = read('hssakd/hssakd_joint_resnet56_resnet20_cifar100.py')
    subset = few.train_dataloader.dataset
    assert (subset.type, subset.fraction, subset.seed) == ('kdmm.StratifiedSubset', 0.25, 0)
    assert subset.dataset == full.train_dataloader.dataset
    few.train_dataloader.dataset = subset.dataset
    same = ('model', 'kd', 'train_dataloader', 'val_dataloader', 'optim_wrapper', 'train_cfg')
    assert {key: few[key] for key in same} == {key: full[key] for key in same}
