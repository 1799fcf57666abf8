"""``configs/seg_kd``: one recipe, teacher and budget, and the published weight of each method."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config  # noqa: E402

from kdmm.distillers import ConfigError  # noqa: E402
from kdmm.engine import build_runner  # noqa: E402
from kdmm.losses import CSDLoss, CWDLoss, KDLoss  # noqa: E402

from .test_configs import ALL, read  # noqa: E402
from .tiny_data import shrink, write_tiny_data  # noqa: E402

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
    """What the base library sees."""
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
    with pytest.raises(ConfigError, match=r'losses\.adv.* at least 64 x 64, got student \(1, 11'):
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
