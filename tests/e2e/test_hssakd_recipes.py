"""The configs of HSSAKD have the networks and the recipes of the papers."""

from typing import Any

import pytest
from mmengine.config import Config

pytest.importorskip('mmpretrain')

from kdmm.models import StagedBackbone  # noqa: E402
from kdmm.models.backbones import CIFAR_PRESETS  # noqa: E402

from .hssakd_runs import (  # noqa: E402
    ALL,
    CONFIGS,
    IMAGENET,
    LIGHT,
    NETWORKS,
    PAPER,
    PRESETS,
    branches_in,
    build,
    kind_of,
    parameters_of,
    read,
    split_name,
)


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
