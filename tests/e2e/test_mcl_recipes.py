"""The configs of MCL have the networks and the batches of the papers."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

pytest.importorskip('mmpretrain')

from .config_table import FAMILIES, SAMPLER  # noqa: E402
from .config_table import read as read_config  # noqa: E402

ALL = [Path(name).stem for name in FAMILIES['mcl'].names if 'moco' not in name]
#: Parameters of two networks, and of four with a common trunk, in the papers' tables.
TOTALS = dict(
    resnet32_cifar100=(945_512, 1_819_552),
    resnet56_cifar100=(1_723_240, 3_318_944),
    resnet110_cifar100=(2_341_736, 4_517_344),
    wrn16_2_cifar100=(1_406_568, 2_712_864),
    wrn40_2_cifar100=(4_510_312, 8_697_632),
    wrn28_4_cifar100=(11_744_360, 22_679_776),
    shufflenetv2_half_cifar100=(888_584, 1_754_272),
    shufflenetv2_cifar100=(2_712_208, 5_331_752),
    resnet18_imagenet=(23_379_024, 44_708_832),
    resnet34_imagenet=(43_595_344, 83_146_976),
)
SIZES = {
    f'{role}_{network}': total
    for network, totals in TOTALS.items()
    for role, total in dict(
        mcl_x2=totals[0], dml=totals[0], mcl_x4=totals[1], mcl_x4_logit=totals[1]
    ).items()
    if f'{role}_{network}' in ALL
}


def read(name: str) -> Config:
    """A config of the folder, by its stem."""
    return read_config(f'mcl/{name}.py')


def test_all_runs_of_the_tables_exist() -> None:
    expected = {f'mcl_x{n}_{network}' for network in TOTALS for n in (2, 4)}
    assert expected <= set(ALL) and len(SIZES) > len(expected)
    assert {f'baseline_{network}' for network in TOTALS} <= set(ALL)


@cache
def classifier(network: str) -> Any:
    with MODELS.switch_scope_and_registry('mmpretrain') as registry:
        return registry.build(read(f'mcl_x2_{network}').model)


@pytest.mark.parametrize('name', SIZES)
def test_has_the_papers_parameters(name: str) -> None:
    """N networks less the trunk that N - 1 of them do not have again."""
    cfg = read(name)
    network = next(network for network in TOTALS if name.endswith(f'_{network}'))
    assert cfg.model == read(f'mcl_x2_{network}').model
    model = classifier(network)
    shared = [model.get_submodule(path) for path in cfg.kd.get('trunk', ())]
    trunk = sum(p.numel() for module in shared for p in module.parameters())
    whole = sum(p.numel() for p in model.parameters())
    assert cfg.kd.peers * whole - (cfg.kd.peers - 1) * trunk == SIZES[name]


@pytest.mark.parametrize('name', [name for name in ALL if 'logit' in name])
def test_the_network_that_learns_from_the_ensemble_is_the_one_to_keep(name: str) -> None:
    kd = read(name).kd
    assert kd.keep == kd.peers - 1 and kd.losses.logit.get('learners') is None


@pytest.mark.parametrize('name', ALL)
def test_batches_are_of_classes_but_on_imagenet(name: str) -> None:
    assert (read(name).train_dataloader.sampler.type == SAMPLER) == ('imagenet' not in name)
