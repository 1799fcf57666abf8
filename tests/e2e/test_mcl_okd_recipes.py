"""The configs of MCL-OKD have the networks, trunks and recipes of the paper and its public code."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

pytest.importorskip('mmpretrain')

from tests.models.backbones.networks import COUNTS  # noqa: E402

from .config_table import FAMILIES  # noqa: E402
from .config_table import read as read_config  # noqa: E402

ALL = [Path(name).stem for name in FAMILIES['mcl_okd'].names]
#: Network on CIFAR-100 -> its preset, parameters outside of its trunk, negatives.
NETWORKS = {
    # stages 2 and 3 and the classifier of the four branches in MCL's table: 1,819,552 - 472,756
    # more than one network (arXiv 2104.12565, public code)
    'resnet32': ('resnet32', (1_819_552 - 472_756) // 3, 256),
    'resnet110': ('resnet110_bottleneck', (4_517_344 - 1_170_868) // 3, 256),
    # what tests/distillers/cohort/test_trunk.py derives
    'vgg16': ('vgg16', 14_774_436 - 260_928 - 1_476_864, 16384),
    'densenet40_12': ('densenet40_12', 1_060_132 - 432 - 108_240 - 25_920, 256),
    'densenet_bc40_12': ('densenet_bc40_12', 188_092 - 648 - 16_200 - 31_680 - 4_800, 256),
}
COMPARED = ('dml', 'one', 'cl_ilr', 'okddip')


def read(name: str) -> Config:
    return read_config(f'mcl_okd/{name}.py')


def test_all_runs_exist() -> None:
    runs = {f'{role}_{net}_cifar100' for role in ('baseline', 'mcl_okd') for net in NETWORKS}
    runs |= {f'{method}_resnet32_cifar100' for method in COMPARED}
    runs |= {'baseline_resnet34_imagenet', 'mcl_okd_resnet34_imagenet'}
    runs |= {f'cifar10_small_{arm}' for arm in (
        'alone', 'alone_on_train', 'branches', 'dml', 'mcl_x4', 'mcl_okd',
        'few_shot_mcl_okd')}  # fmt: skip
    assert runs == set(ALL)


@pytest.mark.parametrize('network', NETWORKS)
def test_networks_and_trunks(network: str) -> None:
    preset, branch, negatives = NETWORKS[network]
    cfg = read(f'mcl_okd_{network}_cifar100')
    assert cfg.model == read(f'baseline_{network}_cifar100').model
    with MODELS.switch_scope_and_registry('mmpretrain') as registry:
        model: Any = registry.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[preset].params
    assert cfg.model.head.init_cfg == model.backbone.head_init
    shared = [model.get_submodule(path) for path in cfg.kd.trunk]
    trunk = sum(p.numel() for module in shared for p in module.parameters())
    assert COUNTS[preset].params - trunk == branch
    assert cfg.kd.losses.contrast.negatives == negatives


@pytest.mark.parametrize('name', [name for name in ALL if name.startswith('mcl_okd')])
def test_recipe_of_the_method(name: str) -> None:
    """The last branch learns from the ensemble and is the one to keep."""
    cfg, imagenet = read(name), 'imagenet' in name
    kd, contrast = cfg.kd, cfg.kd.losses.contrast
    assert (kd.peers, kd.keep, kd.losses.ensemble.learners) == (4, 3, 'last')
    assert (contrast.weight, kd.losses.ensemble.get('weight', 1.0)) == (0.025, 1.0)
    assert (contrast.tau, contrast.replace) == ((0.07, True) if imagenet else (0.1, False))
    assert contrast.num_samples == (1_281_167 if imagenet else 50_000)
    assert cfg.train_dataloader.batch_size == (16 if imagenet else 64)
    assert_schedule(cfg, 0.05, imagenet)


@pytest.mark.parametrize(
    'name', [name for name in ALL if name.startswith(('baseline', *COMPARED))]
)  # fmt: skip
def test_recipe_of_the_others(name: str) -> None:
    cfg, imagenet = read(name), 'imagenet' in name
    assert cfg.train_dataloader.batch_size == (32 if imagenet else 128)
    assert_schedule(cfg, 0.1, imagenet)


def assert_schedule(cfg: Config, lr: float, imagenet: bool) -> None:
    optimizer, epochs = cfg.optim_wrapper.optimizer, 100 if imagenet else 300
    assert (optimizer.lr, optimizer.momentum, optimizer.nesterov) == (lr, 0.9, True)
    assert optimizer.weight_decay == (1e-4 if imagenet else 5e-4)
    assert (cfg.param_scheduler.type, cfg.param_scheduler.T_max) == ('CosineAnnealingLR', epochs)
    assert cfg.train_cfg.max_epochs == epochs


def test_methods_that_are_compared() -> None:
    """With four networks each, in the form of MCL-OKD's public code."""
    dml, one, cl, dip = (read(f'{method}_resnet32_cifar100').kd for method in COMPARED)
    assert [kd.peers for kd in (dml, one, cl, dip)] == [4] * 4
    assert 'trunk' not in dml and dml.losses.dml.temperature == 2.0
    assert one.trunk == cl.trunk == dip.trunk and one.trunk[-1] == 'backbone.stages.1'
    assert one.taps.trunk == 'backbone.stages.2.in'
    assert cl.trunk_gradient == 'mean' and cl.losses.cl.target == 'others'
    weights = read('cl_ilr_resnet32_cifar100').model.head.loss.loss_weight, cl.losses.cl.weight
    assert weights == (0.5, 0.5)
    assert dip.keep == 3 and set(dip.losses.okddip.weight) == {'peers', 'leader'}


def test_small_arms_see_a_few_images() -> None:
    few_shot = 'cifar10_small_few_shot_mcl_okd'
    for name in (name for name in ALL if name.startswith('cifar10_small') and name != few_shot):
        cfg = read(name)
        assert cfg.train_dataloader.dataset.per_class == 100
        assert cfg.model == read('cifar10_small_alone').model
    train = read('cifar10_small_alone_on_train')
    seen = dict(train.train_dataloader.dataset)
    told = dict(train.test_dataloader.dataset)
    assert [told[key] for key in ('type', 'per_class', 'seed')] == [
        seen[key] for key in ('type', 'per_class', 'seed')
    ]
    assert read('cifar10_small_mcl_okd').kd.losses.contrast.num_samples == 1000
    novel = read(few_shot)
    dataset = novel.train_dataloader.dataset
    assert novel.kd.losses.contrast.num_samples == dataset.count * dataset.dataset.per_class
