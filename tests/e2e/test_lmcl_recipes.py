"""The configs of L-MCL have the networks, branches and constants of arXiv 2207.11518.

Numbers of parameters were computed from the authors' public code.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

pytest.importorskip('mmpretrain')

from kdmm.distillers.stage_branches import make_branches  # noqa: E402
from kdmm.losses import LMCLBankLoss, LMCLLoss, StageEnsembleLoss  # noqa: E402
from kdmm.teachers.teacher import load_model_config  # noqa: E402

from .config_table import FAMILIES, SAMPLER, kind_of  # noqa: E402
from .config_table import read as read_config  # noqa: E402

ALL = [Path(name).stem for name in FAMILIES['lmcl'].names]
PUBLISHED = [name for name in ALL if name.startswith('lmcl_')]
#: Network -> parameters of its branches, embedding width, stages.
BRANCHES = dict(
    resnet32_cifar100=(809_096, 64, 3),
    resnet56_cifar100=(1_475_208, 64, 3),
    resnet110_cifar100=(2_011_080, 256, 3),
    wrn16_2_cifar100=(1_208_200, 128, 3),
    wrn40_2_cifar100=(3_867_528, 128, 3),
    wrn28_4_cifar100=(10_089_032, 256, 3),
    shufflenetv2_half_cifar100=(827_768, 1024, 3),
    shufflenetv2_cifar100=(2_406_252, 1024, 3),
    resnet18_imagenet=(14_626_488, 512, 4),
    resnet34_imagenet=(14_626_488, 512, 4),
    resnet50_imagenet=(27_669_944, 2048, 4),
    shufflenetv2_imagenet=(6_119_796, 1024, 4),
)
PAIRS = {
    'resnet32_resnet110_cifar100',
    'resnet56_resnet110_cifar100',
    'wrn16_2_wrn40_2_cifar100',
    'wrn40_2_wrn28_4_cifar100',
    'resnet56_wrn40_2_cifar100',
    'resnet110_wrn28_4_cifar100',
    'shufflenetv2_resnet110_cifar100',
    'shufflenetv2_wrn40_2_cifar100',
    'resnet18_resnet50_imagenet',
    'shufflenetv2_resnet18_imagenet',
    'shufflenetv2_resnet50_imagenet',
}
#: In the tables, but in no cohort of two of its kind.
IN_PAIRS_ALONE = {'wrn28_4_cifar100', 'resnet18_imagenet'}


def read(name: str) -> Config:
    """A config of the folder, by its stem."""
    return read_config(f'lmcl/{name}.py')


@cache
def branches_of(network: str) -> tuple[int, int, int]:
    """Parameters of a network's branches as its cohort has them, embedding width, stages."""
    folder = 'mcl' if network in IN_PAIRS_ALONE else 'lmcl/lmcl'
    role = '/baseline_' if network in IN_PAIRS_ALONE else '_'
    model = read_config(f'{folder}{role}{network}.py').model
    data = network.rsplit('_', 1)[1]
    typical = {'imagenet': 'resnet34_imagenet', 'cifar100': 'resnet32_cifar100'}[data]
    own = typical if network in IN_PAIRS_ALONE else network
    with MODELS.switch_scope_and_registry('mmpretrain') as registry:
        net = registry.build(model)
    branches = make_branches(net, **read(f'lmcl_{own}').kd.branches)
    total = sum(p.numel() for p in branches.parameters())
    return total, net.head.fc.in_features, 1 + len(branches)


def test_all_cohorts_of_the_tables_exist() -> None:
    alike = set(BRANCHES) - IN_PAIRS_ALONE
    assert set(PUBLISHED) == {f'lmcl_{name}' for name in alike | PAIRS}


@pytest.mark.parametrize('network', BRANCHES)
def test_branches_have_the_papers_parameters(network: str) -> None:
    assert branches_of(network) == BRANCHES[network]


@pytest.mark.parametrize('pair', sorted(PAIRS))
def test_a_pair_is_of_both_networks(pair: str) -> None:
    cfg, data = read(f'lmcl_{pair}'), pair.rsplit('_', 1)[1]
    (name,) = cfg.kd.peers
    second = name.removeprefix('kdmm::mcl/baseline_').removesuffix('.py')
    first = f'{pair.removesuffix("_" + second)}_{data}'
    assert {first, second} <= set(BRANCHES)
    alone = read_config(f'mcl/baseline_{first}.py').model
    assert (cfg.model.backbone, cfg.model.head) == (alone.backbone, alone.head)
    peer = read_config(f'mcl/baseline_{second}.py').model
    assert load_model_config(name)[0]['backbone'] == peer.backbone


def blocks(name: str) -> Any:
    """Of the branches of a config: fewer on ImageNet, of ShuffleNetV2 in the first one alone."""
    if not name.endswith('imagenet'):
        return None
    if 'shufflenetv2' not in name:
        return 1
    return dict(student=[2, None, None], peer1=1) if 'resnet' in name else [2, None, None]


@pytest.mark.parametrize('name', PUBLISHED)
def test_has_the_papers_constants(name: str) -> None:
    """tau, T, weights of VCL, SoftVCL, ICL and SoftICL, phases; rates and epochs."""
    cfg, imagenet = read(name), name.endswith('imagenet')
    kd, layers, ensemble = cfg.kd, cfg.kd.losses['layers'], cfg.kd.losses['ensemble']
    assert (kd.type, layers.matching, kd.branches.stages) == ('LMCL', 'learned', 'inner')
    hard = 0.01 if imagenet else 0.1
    assert layers.weight == dict(vcl=hard, soft_vcl=1.0, icl=hard, soft_icl=1.0)
    assert (layers.tau, layers.temperature) == ((0.07 if imagenet else 0.1), 3.0)
    assert layers.type == (LMCLBankLoss if imagenet else LMCLLoss).__name__
    assert ensemble == dict(
        type=StageEnsembleLoss.__name__,
        on=['stages', 'stage_logits'],
        temperature=3.0,
        weight=dict(ce=1.0, kd=1.0),
    )
    assert kd.meta == dict(every=500 if imagenet else 50, steps=2, form='adjoint')
    assert kd.branches.get('blocks') == blocks(name)
    assert kd.get('trunk') is None
    expected: dict[str, Any] = dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True)
    expected['weight_decay'] = 1e-4 if imagenet else 5e-4
    optimizer = cfg.optim_wrapper.optimizer
    assert {key: optimizer[key] for key in expected} == expected
    assert set(optimizer) - set(expected) <= {'_scope_'}
    assert cfg.train_cfg.max_epochs == (100 if imagenet else 300)
    schedule = cfg.param_scheduler
    if imagenet:
        assert (layers.num_samples, layers.negatives) == (1_281_167, 8192)
        assert (schedule.type, schedule.milestones) == ('MultiStepLR', [30, 60, 90])
        assert cfg.train_dataloader.batch_size == 32 and 'PK' not in str(cfg.train_dataloader)
    else:
        assert (schedule.type, schedule.T_max) == ('CosineAnnealingLR', 300)
        sampler = dict(type=SAMPLER, classes_per_batch=64, samples_per_class=2)
        assert cfg.train_dataloader.sampler == sampler and cfg.train_dataloader.batch_size == 128


def test_heads_and_matching_have_the_papers_parameters() -> None:
    """Of two ResNet-32: projection heads, matching, aggregators."""
    width, stages = BRANCHES['resnet32_cifar100'][1:]
    loss = LMCLLoss([(width,) * stages] * 2)
    mix = StageEnsembleLoss([((width,) * stages, (100,) * stages)] * 2)

    def count(part: Any) -> int:
        return sum(p.numel() for p in part.parameters())

    assert loss.matching is not None
    assert (count(loss.heads), count(loss.matching)) == (148_992, 49_920)
    assert count(mix.aggregators) == 25_094


def test_arms_of_the_comparison_differ_in_what_is_between_the_networks() -> None:
    arms = {name: read(name) for name in ALL if name.startswith('cifar10_small')}
    del arms['cifar10_small_alone_on_train'], arms['cifar10_small_alone_resnet14_on_train']
    assert len(arms) == 11
    alone = arms['cifar10_small_alone'].to_dict()
    for name, arm in arms.items():
        cfg = dict(arm.to_dict(), work_dir=alone['work_dir'])
        cfg.pop('kd', None)
        if name == 'cifar10_small_alone_resnet14':
            assert cfg['model'].pop('backbone')['depth'] == 14
            cfg['model']['backbone'] = alone['model']['backbone']
        assert cfg == alone, name
        assert not kind_of(arm) or arm.kd.channels_last
    matchings = {
        name.removeprefix('cifar10_small_'): (kind_of(arm), arm.kd.losses['layers'].matching)
        for name, arm in arms.items()
        if 'lmcl' in name
    }
    assert matchings == dict(
        lmcl_uniform=('Cohort', 'uniform'),
        lmcl_one_to_one=('Cohort', 'one_to_one'),
        lmcl=('LMCL', 'learned'),
        lmcl_pair=('LMCL', 'learned'),
    )
