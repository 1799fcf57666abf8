"""CRD through the Runner: what is trained, written, resumed and refused.

The loss itself is in tests/losses/test_crd.py.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS

pytest.importorskip('mmpretrain')

from kdmm.distillers import distill  # noqa: E402
from kdmm.losses import KDLoss  # noqa: E402
from tests.e2e.job import assert_same  # noqa: E402
from tests.e2e.tiny_hssakd import (  # noqa: E402
    CLASSES,
    IMAGES,
    SMALL,
    WIDER,
    Run,
    classifier,
    config,
    train,
    write_images,
)
from tests.errors import refused  # noqa: E402

CRD = dict(type='CRDLoss', on='embedding', weight=0.8, num_samples=IMAGES, negatives=20, dim=6)
KD = dict(type='KDLoss', on='logits', temperature=4.0)


def teacher(backbone: dict[str, Any] = WIDER) -> dict[str, Any]:
    return dict(model=dict(classifier(backbone), _scope_='mmpretrain'), random=True)


def section(teachers: Any = None, **losses: Any) -> dict[str, Any]:
    taps = dict(embedding='head.fc.in', logits='head.fc.out')
    return dict(teacher=teachers or teacher(), taps=taps, losses=copy.deepcopy(losses))


def two_teachers(**second: Any) -> dict[str, Any]:
    losses = {
        f'{name}{place}': dict(loss, teacher=place)
        for place in (0, 1)
        for name, loss in dict(crd=CRD, kd=KD).items()
    }
    losses['crd1'].update(second)
    return section([teacher(), teacher(SMALL)], **losses)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp('images'))


@pytest.fixture(scope='module')
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp('whole')
    return train(config(data, folder, section(crd=dict(CRD, mode='relax'))))


def logged(run: Run) -> set[str]:
    scalars = run.runner.message_hub.log_scalars
    return {key.removeprefix('train/') for key in scalars if key.startswith('train/kd.')}


def test_what_is_written(whole: Run) -> None:
    """The student's file is a plain classifier's; heads, banks and Z are beside it."""
    file = whole.file('epoch_2.pth')
    with MODELS.switch_scope_and_registry('mmpretrain') as registry:
        plain = registry.build(classifier(SMALL))
    plain.load_state_dict(file['state_dict'], strict=True)
    term = 'terms.crd.loss.'
    entry = {key.removeprefix(term): value for key, value in file['kdmm'].items()}
    assert {key.split('.')[0] for key in entry} == {
        'heads',
        'bank',
        'fingerprint',
        'log_z',
        'z_known',
    }
    assert entry['bank.rows'].shape == (2, IMAGES, 6) and entry['bank.step'] == 6
    norms = entry['bank.rows'].norm(dim=2)  # each image was seen twice
    torch.testing.assert_close(norms, torch.ones_like(norms))
    assert entry['z_known'] and entry['log_z'].abs().min() > 0
    heads = [value for key, value in entry.items() if key.startswith('heads.')]
    assert sum(value.numel() for value in heads) == (8 + 1 + 12 + 1) * 6
    first = whole.file('epoch_1.pth')['kdmm']
    for key, value in first.items():
        trained = 'heads' in key or key.endswith(('rows', 'step'))
        assert torch.equal(value, file['kdmm'][key]) != trained, key


def test_what_is_logged(whole: Run) -> None:
    """CRD alone, and its two parts, which nothing adds up."""
    measured = {'kd.weight_crd', 'kd.share_crd'}
    assert logged(whole) - measured == {'kd.loss_crd', 'kd.crd_student', 'kd.crd_teacher'}
    scalars = whole.runner.message_hub.log_scalars
    last = {key: scalars[f'train/kd.{key}'].data[0][-1] for key in ('crd_student', 'crd_teacher')}
    total = scalars['train/kd.loss_crd'].data[0][-1]
    assert total == pytest.approx(0.8 * sum(last.values()), rel=1e-5)


def test_resumed_is_the_uninterrupted_run(whole: Run, data: Path, tmp_path: Path) -> None:
    middle = dict(resume=True, load_from=str(whole.folder / 'epoch_1.pth'))
    kd = section(crd=dict(CRD, mode='relax'))
    again = train(config(data, tmp_path, kd, **middle))
    assert again.runner.iter == 6
    for entry in ('state_dict', 'kdmm', 'optimizer'):
        assert_same(whole.file('epoch_2.pth')[entry], again.file('epoch_2.pth')[entry], entry)


def test_resumed_on_other_images(whole: Run, data: Path, tmp_path: Path) -> None:
    """As many, half of them of a second source; and as many fewer as the config says."""
    middle = dict(resume=True, load_from=str(whole.folder / 'epoch_1.pth'))
    cfg = config(data, tmp_path / 'other', section(crd=dict(CRD, mode='relax')), **middle)
    one = cfg.train_dataloader.dataset.to_dict()
    half = [dict(copy.deepcopy(one), indices=IMAGES // 2) for _ in range(2)]
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=half)
    with refused(key='kd.losses.crd', problem='the sample_idx of', fix='load_from'):
        train(cfg)
    fewer = section(crd=dict(CRD, mode='relax', num_samples=IMAGES - 2))
    told = f'were filled from {IMAGES} images'
    with refused(key='kd.losses.crd.num_samples', got=IMAGES - 2, problem=told, fix='load_from'):
        train(config(data, tmp_path / 'fewer', fewer, **middle))


def test_two_teachers_of_joined_data(data: Path, tmp_path: Path) -> None:
    """Each has a CRD and a KD term with banks of its own; images of both sources have rows."""
    kd = two_teachers()
    for name in ('crd0', 'crd1'):
        kd['losses'][name]['num_samples'] = 2 * IMAGES
    cfg = config(data, tmp_path, kd, epochs=1)
    one = cfg.train_dataloader.dataset.to_dict()
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[one, copy.deepcopy(one)])
    run = train(cfg)
    assert {f'kd.loss_{name}{i}' for name in ('crd', 'kd') for i in (0, 1)} <= logged(run)
    state = run.file('epoch_1.pth')['kdmm']
    for name in ('crd0', 'crd1'):
        rows = state[f'terms.{name}.loss.bank.rows']
        norms = rows.norm(dim=2)
        torch.testing.assert_close(norms, torch.ones_like(norms))  # all 24 of both banks
    assert not torch.equal(*(state[f'terms.crd{i}.loss.bank.rows'] for i in (0, 1)))


def test_the_teacher_is_not_trained_and_its_head_is(data: Path, tmp_path: Path) -> None:
    model = distill(dict(classifier(), _scope_='mmpretrain'), **section(crd=CRD, kd=KD))
    names = {name for name, _ in model.named_parameters() if name.startswith('kd.')}
    layers = [f'kd.terms.crd.loss.heads.heads.{i}.0' for i in (0, 1)]
    assert names == {f'{layer}.{part}' for layer in layers for part in ('weight', 'bias')}
    network = model.kd.teachers[0].module
    assert not any(p.requires_grad for p in network.parameters()) and not network.training


def test_the_control_beside_it() -> None:
    """KD of temperature 4, as the paper weighs it beside CRD."""
    student, teacher_logits = (torch.tensor([x]).double() for x in ([1, 2, 3], [3, 2, 1]))
    value = KDLoss(temperature=4.0)(student, teacher_logits)
    assert float(value) == pytest.approx(1.3196299122, abs=1e-9)


def test_teachers_whose_data_differ(data: Path, tmp_path: Path) -> None:
    cfg = config(data, tmp_path, two_teachers(num_samples=IMAGES + 1))
    with refused(key='kd.losses.crd1.num_samples', got=IMAGES + 1, fix=f'num_samples={IMAGES}'):
        train(cfg)


def test_too_few_others(data: Path, tmp_path: Path) -> None:
    cfg = config(data, tmp_path, section(crd=dict(CRD, replace=False, negatives=9)))
    left = IMAGES - IMAGES // CLASSES
    told = dict(problem=("class 'class_00'", f'{left} images'), fix='replace=True')
    with refused(key='kd.losses.crd.negatives', got=9, **told):
        train(cfg)


def test_images_without_a_number(data: Path, tmp_path: Path) -> None:
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs', meta_keys=('img_path',))]
    cfg = config(data, tmp_path, section(crd=CRD), train_dataloader__dataset__pipeline=pipeline)
    with refused(problem='no sample_idx', fix='meta_keys'):
        train(cfg)


def test_features_that_are_not_pooled() -> None:
    kd = section(crd=CRD)
    kd['taps']['embedding'] = 'backbone.out[0]'
    with refused(key='kd.losses.crd', fix='head.fc.in'):
        distill(dict(classifier(), _scope_='mmpretrain'), **kd)
