"""Every config of MCL: it is plain outside ``kd``, has the papers' networks, builds and trains.

Those of MoCo: test_mcl_moco.py.
"""

import copy
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner as PlainRunner

pytest.importorskip('mmpretrain')

from kdmm.datasets import PKSampler  # noqa: E402
from kdmm.engine import build_runner, load_config  # noqa: E402
from kdmm.hooks.ownership import objective_of  # noqa: E402

from .tiny_cifar import shrink_cifar, write_folder  # noqa: E402
from .tiny_data import walk  # noqa: E402

CONFIGS = Path(__file__).parents[2] / 'configs/mcl'
ALL = [path.stem for path in sorted(CONFIGS.glob('*.py')) if 'moco' not in path.stem]
#: Parameters of two networks, and of four with a common trunk, in the authors' code.
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
    """The caller's to change."""
    return copy.deepcopy(_parsed(name))


@cache
def _parsed(name: str) -> Config:
    return load_config(str(CONFIGS / f'{name}.py'))


def test_all_runs_of_the_tables_exist() -> None:
    expected = {f'mcl_x{n}_{network}' for network in TOTALS for n in (2, 4)}
    assert expected <= set(ALL) and len(SIZES) > len(expected)
    assert {f'baseline_{network}' for network in TOTALS} <= set(ALL)


@pytest.mark.parametrize('name', ALL)
def test_is_plain_outside_kd(name: str, images: Path, tmp_path: Path) -> None:
    """MMPretrain's own runner builds it, its model and its batches.

    It does so without ``kd``, which says nothing to it as long as kdmm is not imported.
    """
    cfg = read(name)
    kinds: list[str] = []
    outside = {key: value for key, value in cfg.to_dict().items() if key != 'kd'}
    walk(outside, lambda node: kinds.append(str(node.get('type', ''))))
    ours = {kind for kind in kinds if kind.startswith('kdmm')}
    assert all(kind.startswith('kdmm.CIFAR') for kind in ours - {'kdmm.StratifiedSubset', SAMPLER})
    assert ('kdmm' in cfg.get('custom_imports', {}).get('imports', [])) == bool(ours)
    shrink(cfg, images, tmp_path)
    cfg.pop('kd', None)
    runner = PlainRunner.from_cfg(cfg)
    assert type(runner.model).__name__ == 'ImageClassifier' and not hasattr(runner.model, 'kd')
    loader = PlainRunner.build_dataloader(cfg.train_dataloader, seed=0)
    assert [len(batch['data_samples']) for batch in loader] == [4, 4]


def kind_of(backbone: Any) -> tuple[str, str]:
    return backbone.type, str(backbone.get('block', backbone.get('depth')))


SAMPLER = 'kdmm.PKSampler'
#: Kind of backbone to what makes it shallow.
SHALLOW: dict[tuple[str, str], dict[str, int]] = {
    ('kdmm.CIFARResNet', 'basic'): dict(depth=8),
    ('kdmm.CIFARResNet', 'bottleneck'): dict(depth=11),
    ('ResNet', '34'): dict(depth=18),
    **{('kdmm.CIFARWideResNet', depth): dict(depth=10) for depth in ('16', '28', '40')},
}


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


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of four classes."""
    root = tmp_path_factory.mktemp('images')
    write_folder(root, classes=4, per_class=2)
    return root


def shrink(cfg: Config, images: Path, work_dir: Path) -> None:
    """Two small steps on four images, of two classes where the config says so.

    Networks keep their kind and width; deep ones become shallow.
    """
    cfg.experiment_name = str(work_dir)  # there is one of a name in a process
    cfg.model.backbone.update(SHALLOW.get(kind_of(cfg.model.backbone), {}))
    cfg.optim_wrapper.optimizer.lr = 1e-3
    shrink_cifar(cfg, images, work_dir)
    walk(cfg.train_dataloader.dataset, _two_a_class)
    cfg.train_dataloader.batch_size = 4
    if cfg.train_dataloader.sampler.type == SAMPLER:
        cfg.train_dataloader.sampler.update(classes_per_batch=2, samples_per_class=2)
    walk(cfg.get('kd'), _shrink_bank)


def _two_a_class(node: Any) -> None:
    if node.get('per_class'):
        node['per_class'] = 2


def _shrink_bank(node: Any) -> None:
    if node.get('type') == 'MCLBankLoss':
        node.update(num_samples=8, negatives=8)


@pytest.mark.parametrize('name', ALL)
def test_trains_two_iterations(name: str, images: Path, tmp_path: Path) -> None:
    cfg = read(name)
    best = cfg.default_hooks.checkpoint.get('save_best', 'accuracy/top1')
    shrink(cfg, images, tmp_path)
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 2
    sampler = runner.train_dataloader.sampler
    assert isinstance(getattr(sampler, 'sampler', sampler), PKSampler) == ('imagenet' not in name)
    logged = runner.message_hub.log_scalars
    terms = {tag.removeprefix('train/') for tag in logged if 'loss' in tag}
    assert terms == expected_terms(cfg)
    assert all(math.isfinite(value) for term in terms for value in logged[f'train/{term}'].data[0])
    assert f'val/{best}' in logged
    if cfg.get('kd'):
        others = [f'peer{i}' for i in range(cfg.kd.peers) if i != cfg.kd.get('keep', 0)]
        assert list(objective_of(runner.model).networks()) == others
        assert {path.stem for path in tmp_path.glob('peer*.pth')} == set(others)
        assert all(f'val/{whose}/{best}' in logged for whose in (*others, 'ensemble'))


def expected_terms(cfg: Config) -> set[str]:
    """Log names of the losses."""
    kd = cfg.get('kd')
    if not kd:
        return {'loss'}
    keep = kd.get('keep', 0)
    found = {'loss', 'head.loss', *(f'kd.peer{i}_loss' for i in range(kd.peers) if i != keep)}
    for term, config in kd.get('losses', {}).items():
        parts = config.get('weight', 1.0)
        names = [f'_{part}' for part in parts] if isinstance(parts, dict) else ['']
        found |= {f'kd.loss_{term}{part}' for part in names}
    return found


@pytest.mark.parametrize('name', [name for name in ALL if 'logit' in name])
def test_the_network_that_learns_from_the_ensemble_is_the_one_to_keep(name: str) -> None:
    kd = read(name).kd
    assert kd.keep == kd.peers - 1 and kd.losses.logit.get('learners') is None
