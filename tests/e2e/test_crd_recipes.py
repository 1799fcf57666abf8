"""The configs of CRD: networks, pairs and recipes of the paper, and what they read from others."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

pytest.importorskip('mmpretrain')

from kdmm.models.backbones import CIFAR_PRESETS  # noqa: E402

from .config_table import CONFIGS, FAMILIES, kind_of, read  # noqa: E402

ALL = FAMILIES['crd'].names
#: Network -> parameters with 100 classes, and its preset where that has a longer name.
NETWORKS: dict[str, tuple[int, str]] = {
    'wrn40_2': (2_255_156, ''),
    'wrn16_2': (703_284, ''),
    'wrn40_1': (569_780, ''),
    'resnet56': (861_620, ''),
    'resnet20': (278_324, ''),
    'resnet110': (1_736_564, 'resnet110_basic'),
    'resnet32': (472_756, ''),
    'resnet32x4': (7_433_860, ''),
    'resnet8x4': (1_233_540, ''),
    'vgg13': (9_462_180, ''),
    'vgg8': (3_965_028, ''),
    'resnet50': (23_705_252, ''),
    'mobilenetv2': (812_836, 'mobilenetv2_stride2'),
    'shufflenetv1': (949_258, ''),
    'shufflenetv2': (1_355_528, 'shufflenetv2_1x1'),
}
LIGHT = ('mobilenetv2', 'shufflenetv1', 'shufflenetv2')
#: The paper's two tables: networks of one family, and of two.
PAIRS = (
    'wrn40_2 wrn16_2', 'wrn40_2 wrn40_1', 'resnet56 resnet20', 'resnet110 resnet20',
    'resnet110 resnet32', 'resnet32x4 resnet8x4', 'vgg13 vgg8',
    'vgg13 mobilenetv2', 'resnet50 mobilenetv2', 'resnet50 vgg8', 'resnet32x4 shufflenetv1',
    'resnet32x4 shufflenetv2', 'wrn40_2 shufflenetv1',
)  # fmt: skip
CIFAR = [name for name in ALL if name.endswith('_cifar100.py')]
CRD = dict(
    type='CRDLoss', on='embedding', num_samples=50_000, negatives=16_384, tau=0.07, replace=False,
    weight=0.8,
)  # fmt: skip
KD = dict(type='KDLoss', on='logits', temperature=4.0, weight=1.0)
TAPS = dict(embedding='head.fc.in', logits='head.fc.out')


def pair_of(name: str) -> tuple[str, str]:
    """Teacher and student by the name of a config."""
    return next(
        (teacher, student)
        for teacher, student in map(str.split, PAIRS)
        if f'_{teacher}_{student}_' in name
    )


def of_pairs(role: str) -> list[str]:
    return [f'crd/{role}_{pair.replace(" ", "_")}_cifar100.py' for pair in PAIRS]


def losses_of(name: str) -> dict[str, Any]:
    return read(name).kd.losses.to_dict()


def test_all_runs_of_the_tables_exist() -> None:
    roles = [of_pairs(role) for role in ('crd', 'crd_kd')]
    expected = {
        *itertools.chain(*roles),
        *(f'crd/baseline_{network}_cifar100.py' for network in NETWORKS),
        'crd/crd_kd_two_teachers_resnet20_cifar100.py',
    }
    assert set(CIFAR) == expected and len(expected) == 2 * 13 + 15 + 1


@pytest.mark.parametrize('network', NETWORKS)
def test_networks(network: str) -> None:
    """No count tells the stride of a stem: the preset does."""
    model, (parameters, preset) = (
        read(f'crd/baseline_{network}_cifar100.py').model,
        NETWORKS[network],
    )
    with MODELS.switch_scope_and_registry('mmpretrain') as registry:
        built = registry.build(model)
    assert sum(p.numel() for p in built.parameters()) == parameters
    known = dict(CIFAR_PRESETS[preset or network])
    known['type'] = known['type'].removeprefix('mmpretrain.')
    assert model.backbone.to_dict() | known == model.backbone.to_dict()


@pytest.mark.parametrize('name', CIFAR)
def test_recipe_is_the_papers(name: str) -> None:
    cfg = read(name)
    optimizer, student = cfg.optim_wrapper.optimizer, Path(name).stem.split('_')[-2]
    assert (optimizer.type, optimizer.momentum, optimizer.weight_decay) == ('SGD', 0.9, 5e-4)
    assert not optimizer.nesterov and set(cfg.optim_wrapper) == {'optimizer'}
    assert optimizer.lr == (0.01 if student in LIGHT else 0.05)
    assert cfg.param_scheduler.milestones == [150, 180, 210] and cfg.param_scheduler.gamma == 0.1
    assert cfg.train_cfg.max_epochs == 240 and cfg.train_dataloader.batch_size == 64


@pytest.mark.parametrize('name', [*of_pairs('crd'), *of_pairs('crd_kd')])
def test_pairs(name: str) -> None:
    teacher, student = pair_of(name)
    cfg = read(name)
    plain = read(f'crd/baseline_{student}_cifar100.py')
    assert cfg.model == plain.model and cfg.optim_wrapper == plain.optim_wrapper
    run = f'baseline_{teacher}_cifar100'
    assert cfg.kd.teacher.to_dict() == dict(
        config=f'kdmm::crd/{run}.py', checkpoint=f'work_dirs/{run}/epoch_240.pth'
    )
    assert read(f'crd/{run}.py').work_dir == f'work_dirs/{run}'
    both = 'crd_kd' in name
    assert losses_of(name) == dict(crd=CRD, **(dict(kd=KD) if both else {}))
    assert cfg.kd.taps == {key: TAPS[key] for key in ('embedding', 'logits')[: 1 + both]}


def test_imagenet() -> None:
    """Batches of 256 in all; with logit KD cross-entropy has half of its weight."""
    alone, both = (read(f'crd/{role}_resnet34_resnet18_imagenet.py') for role in ('crd', 'crd_kd'))
    own = Config.fromfile(CONFIGS / 'hssakd/_base_/resnet18_imagenet.py')
    crd = dict(CRD, num_samples=1_281_167, replace=True)
    assert alone.model == own.model and alone.kd.losses == dict(crd=crd)
    assert both.kd.losses == dict(crd=crd, kd=dict(KD, weight=0.9))
    assert both.model.head.loss.pop('loss_weight') == 0.5
    alone.model.head.loss.pop('loss_weight')
    assert both.model == alone.model and alone.kd.teacher == both.kd.teacher
    assert 8 * alone.train_dataloader.batch_size == 256 and alone.train_cfg.max_epochs == 100


@pytest.mark.parametrize(
    ('name', 'single'),
    [
        ('crd/crd_kd_two_teachers_resnet20_cifar100.py', 'crd_kd_resnet110_resnet20_cifar100'),
        ('crd/cifar10_small_two_teachers.py', 'cifar10_small_crd_kd'),
    ],
)
def test_two_teachers_share_the_weight_of_one(name: str, single: str) -> None:
    cfg, one = read(name), read(f'crd/{single}.py')
    losses = cfg.kd.losses.to_dict()
    for kind, place in itertools.product(('crd', 'kd'), (0, 1)):
        term = losses.pop(kind + '_1' * place)
        assert term.pop('teacher', 0) == place
        assert 2 * term.pop('weight') == one.kd.losses[kind].weight
        whole = one.kd.losses[kind].to_dict()
        whole.pop('weight')
        assert term == whole
    assert not losses and len(cfg.kd.teacher) == 2 and cfg.kd.teacher[0] == one.kd.teacher
    assert cfg.kd.teacher[1] != one.kd.teacher


def test_small_runs() -> None:
    """The network, data and budget of docs/results/hssakd_small.md; K / n as on CIFAR-100."""
    student = read('small/cifar10/student.py')
    teacher = read('hssakd/cifar10_small_kd.py').kd.teacher
    for name in ('cifar10_small_crd', 'cifar10_small_crd_kd'):
        cfg = read(f'crd/{name}.py')
        for key in ('model', 'train_dataloader', 'optim_wrapper', 'train_cfg', 'param_scheduler'):
            assert cfg[key] == student[key]
        assert cfg.kd.teacher == teacher and kind_of(cfg) == 'Distiller'
        crd = cfg.kd.losses.crd
        assert crd.num_samples == 10 * cfg.train_dataloader.dataset.per_class
        assert crd.negatives / crd.num_samples == pytest.approx(16_384 / 50_000, abs=1e-4)


def test_readme_names_every_config() -> None:
    """By name, or by role and pair or network."""
    text = (CONFIGS / 'crd/README.md').read_text()
    for name in ALL:
        stem = Path(name).stem
        network = stem.removeprefix('baseline_').removesuffix('_cifar100')
        listed = f'`{stem}.py`' in text or (network in NETWORKS and f'`{network}`' in text)
        if not listed:
            assert f'`{"_".join(pair_of(name))}`' in text, name
