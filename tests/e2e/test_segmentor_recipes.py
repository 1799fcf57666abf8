"""Segmentors: CIRKD's recipe, and beside it the other methods with their published weights.

The configs of ``seg_kd`` have one recipe, teacher and budget.
"""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config  # noqa: E402

from kdmm.engine import build_runner  # noqa: E402
from kdmm.losses import CSDLoss, CWDLoss, KDLoss  # noqa: E402
from tests.errors import refused  # noqa: E402

from .config_table import FAMILIES, read  # noqa: E402
from .tiny_data import shrink, walk, write_tiny_data  # noqa: E402

ALL = FAMILIES['segmentors'].names
#: with the reference's recipe
PUBLISHED = [name for name in ALL if name.startswith('cirkd/') or 'cityscapes' in name]
#: our config -> the zoo's config of the same student
TWINS = {
    'deeplab_r101_r18_cityscapes': 'deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024',
    'deeplab_r101_psp_r18_cityscapes': 'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
    'deeplab_r101_mobilenetv2_cityscapes': (
        'mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024'
    ),
    'segformer_b4_b0_cityscapes': 'segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024',
}
CITYSCAPES, SMALL = 'seg_kd/deeplab_r101_r18_cityscapes_', 'seg_kd/camvid_small_'
STRIDE = 8
#: method -> term -> weight; the terms of its published script, less the adversarial one
WEIGHTS: dict[str, dict[str, Any]] = {
    'kd': dict(kd=1.0),
    'at': dict(kd=1.0, at=1.22),
    'fitnet': dict(kd=1.0, fitnet=10.0),
    'cwd': dict(kd=1.0, cwd=100.0, cwd_logits=3.0),
    'cwd_logits': dict(kd=1.0, cwd_logits=3.0),
    'skd': dict(kd=1.0, skd=10.0),
    'skd_pairwise': dict(kd=1.0, skd=10.0),
    'ifvd': dict(kd=1.0, ifvd=20.0),
    'dsd': dict(psd=0.122, csd=10.0),
    'cirkd': dict(kd=1.0, p2p=1.0, memory=dict(pixel=0.1, region=0.1)),
    'cirkd_channel': dict(
        kd=1.0,
        p2p=1.0,
        memory=dict(pixel=0.1, region=0.1),
        channel=dict(batch=1.0, mse=100.0, memory=0.1),
    ),
}
WEIGHTS['cirkd_legacy'] = WEIGHTS['cirkd']
WEIGHTS['cirkd_auto'] = dict(
    kd='auto:0.5', p2p='auto:0.2', memory=dict(pixel='auto:0.05', region='auto:0.05')
)
ADVERSARIAL = {'cwd', 'cwd_logits', 'skd', 'ifvd'}


@pytest.mark.parametrize('name', TWINS)
def test_student_is_the_base_librarys(name: str) -> None:
    """The student differs from the zoo's config of it in what the README lists, only."""
    ours = read(f'cirkd/{name}.py').model.to_dict()
    zoo = Config.fromstring(f"_base_ = 'mmseg::{TWINS[name]}.py'", '.py').model.to_dict()
    for model in (ours, zoo):
        walk(model, drop_recipe)
        model.pop('test_cfg')
    if 'mobilenet' in name:  # the reference trains it without auxiliary head
        zoo['auxiliary_head'] = None
    assert ours == zoo


def drop_recipe(node: Any) -> None:
    """Remove what the reference's recipe sets in a head."""
    for key in ('align_corners', 'avg_non_ignore', '_scope_'):
        node.pop(key, None)


@pytest.mark.parametrize('name', PUBLISHED)
def test_recipe_is_the_references(name: str) -> None:
    cfg = read(name)
    transforms = train_transforms(cfg)
    kinds = [transform['type'] for transform in transforms]
    assert 'PhotoMetricDistortion' not in kinds
    assert next(t for t in transforms if t['type'] == 'RandomCrop')['cat_max_ratio'] == 1.0
    schedule = cfg.param_scheduler
    assert [step.type for step in schedule] == ['PolyLR']
    assert (schedule[0].power, schedule[0].eta_min) == (0.9, 0.0)
    assert schedule[0].end == cfg.train_cfg.max_iters
    assert cfg.train_cfg.val_interval == 800
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'
    assert 'paramwise_cfg' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.optimizer.weight_decay == 1e-4
    devices = 8 if 'kd' in cfg else 4
    assert cfg.auto_scale_lr.base_batch_size == devices * cfg.train_dataloader.batch_size
    assert cfg.model.data_preprocessor.size == cfg.crop_size


def test_constants_are_the_references() -> None:
    kd = read('cirkd/deeplab_r101_r18_cityscapes.py').kd
    assert (KDLoss().temperature, kd.losses.kd) == (
        1.0,
        dict(type='KDLoss', on='logits', weight=1.0),
    )
    assert (kd.losses.p2p.tau, kd.losses.p2p.weight) == (0.1, 1.0)
    assert kd.losses.memory.weight == dict(pixel=0.1, region=0.1)
    for student in ('r18', 'psp_r18'):
        voc = read(f'cirkd/deeplab_r101_{student}_voc.py').kd
        assert voc.losses.memory.weight == dict(pixel=0.01, region=0.01)
    segformer = read('cirkd/segformer_b4_b0_cityscapes.py')
    assert (segformer.kd.losses.p2p.pool, segformer.kd.losses.memory.pixel_size) == (2, 2000)
    assert segformer.optim_wrapper.optimizer.lr == 2e-4
    assert segformer.train_dataloader.batch_size == 1


def train_transforms(cfg: Config) -> list[Any]:
    """The training pipeline; of the first data set where several are joined."""
    dataset = cfg.train_dataloader.dataset
    return (dataset.datasets[0] if 'datasets' in dataset else dataset).pipeline


# the other methods


def methods(prefix: str) -> list[str]:
    """The methods that have a config with this prefix."""
    return [name[len(prefix) : -3] for name in ALL if name.startswith(prefix)]


@pytest.mark.parametrize('method', methods(CITYSCAPES))
def test_cityscapes_weights(method: str) -> None:
    losses = read(f'{CITYSCAPES}{method}.py').kd.losses.to_dict()
    adversarial = losses.pop('adv', None)
    assert {name: loss['weight'] for name, loss in losses.items()} == WEIGHTS[method]
    assert (adversarial is not None) == (method in ADVERSARIAL)
    if adversarial:
        assert (adversarial['weight'], adversarial['d_weight']) == (0.001, 0.1)


@pytest.mark.parametrize('method', methods(SMALL))
def test_camvid_weights(method: str) -> None:
    losses = read(f'{SMALL}{method}.py').kd.losses.to_dict()
    assert {name: loss['weight'] for name, loss in losses.items()} == WEIGHTS[method]


def test_every_method_has_its_configs() -> None:
    assert set(methods(CITYSCAPES)) == set(WEIGHTS) - {'cirkd', 'cirkd_legacy', 'cirkd_auto'}
    assert set(methods(SMALL)) == set(WEIGHTS) - {'skd'}  # its discriminator needs larger crops


def test_other_constants() -> None:
    losses = {key: read(f'{SMALL}{key}.py').kd.losses for key in ('kd', 'cwd', 'skd_pairwise')}
    defaults = (KDLoss().temperature, CWDLoss().temperature, CSDLoss().temperature)
    assert defaults == (1.0, 4.0, 4.0)  # the configs leave them out
    assert losses['skd_pairwise'].skd.patch == 2
    dsd = read(f'{SMALL}dsd.py').kd.losses
    assert dsd.psd.reduction == 'image'
    written = [*losses['kd'].values(), *losses['cwd'].values(), *dsd.values()]
    assert not any('temperature' in loss or 'tau' in loss for loss in written)
    # the mean over 64 x 128 pixels, which the published weights belong to, in terms of the sum
    assert WEIGHTS['at']['at'] == pytest.approx(10000 / (64 * 128), rel=1e-3)
    assert WEIGHTS['dsd']['psd'] == pytest.approx(1000 / (64 * 128), rel=2e-3)


def without_kd(cfg: Config) -> dict[str, Any]:
    """The config that the base library reads."""
    plain = cfg.to_dict()
    for key in ('kd', 'work_dir'):
        plain.pop(key, None)
    return plain


@pytest.mark.parametrize('method', methods(CITYSCAPES))
def test_cityscapes_differs_in_the_terms_only(method: str) -> None:
    cfg, cirkd = read(f'{CITYSCAPES}{method}.py'), read('cirkd/deeplab_r101_r18_cityscapes.py')
    assert without_kd(cfg) == without_kd(cirkd)
    assert cfg.kd.teacher == cirkd.kd.teacher
    if method == 'kd':
        assert cfg.kd.losses == read('cirkd/deeplab_r101_r18_cityscapes_kd.py').kd.losses


@pytest.mark.parametrize('method', methods(SMALL))
def test_camvid_differs_in_the_terms_only(method: str) -> None:
    cfg, teacher = read(f'{SMALL}{method}.py'), read('small/camvid/teacher.py')
    assert without_kd(cfg) == without_kd(read('small/camvid/student.py'))
    assert cfg.kd.teacher == read(f'{SMALL}kd.py').kd.teacher
    assert cfg.kd.teacher.config == 'kdmm::small/camvid/teacher.py'
    last = f'work_dirs/camvid_small/teacher/iter_{teacher.train_cfg.max_iters}.pth'
    assert cfg.kd.teacher.checkpoint == last


def test_the_discriminator_sees_maps_it_can_read() -> None:
    for method in ADVERSARIAL:
        crop = read(f'{CITYSCAPES}{method}.py').model.data_preprocessor.size
        assert min(crop) // STRIDE >= 64


def test_the_discriminator_is_refused_on_the_small_pair(tmp_path: Path) -> None:
    cfg = read(f'{SMALL}skd_pairwise.py')
    shrink(cfg, tmp_path / 'work')
    write_tiny_data(cfg, tmp_path / 'data')
    cfg.kd.losses.adv = read(f'{CITYSCAPES}skd.py').kd.losses.adv
    with refused(key='kd.losses.adv', problem=('at least 64 x 64', 'student (1, 11')):
        build_runner(cfg)


def test_connectors_and_taps() -> None:
    for method, term in (('fitnet', 'fitnet'), ('cwd', 'cwd')):
        loss = read(f'{CITYSCAPES}{method}.py').kd.losses[term]
        assert loss.connector == dict(type='Projection', bias=False)
    kd = read(f'{CITYSCAPES}dsd.py').kd
    assert [kd.taps[tap] for tap in kd.losses.psd.on] == [
        'backbone.layer3.out',
        'decode_head.conv_seg.in',
        'decode_head.conv_seg.out',
    ]
