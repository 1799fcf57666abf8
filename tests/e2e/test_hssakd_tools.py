"""HSSAKD by tools/: training, testing, converting, and what is refused in one message."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.config import Config  # noqa: E402

from kdmm.transfer import cli  # noqa: E402
from tests.e2e.job import ROOT  # noqa: E402
from tests.e2e.tiny_hssakd import (  # noqa: E402
    MMPRETRAIN,
    SMALL,
    WIDER,
    Run,
    classifier,
    config,
    train,
    write_images,
)
from tests.transfer.nets import loaded  # noqa: E402

TEACHER = dict(config='plain.py', checkpoint='joint/epoch_1.pth')
STUDENT = dict(type='HSSAKD', teacher=TEACHER)
ONLINE = dict(type='HSSAKDOnline')


def tool(name: str, *words: str) -> None:
    """A script of tools/ as the main program of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('LOCAL_RANK', '0')
        patch.setattr('mmengine.runner.runner.collect_env', dict)
        patch.setattr(sys, 'argv', [str(ROOT / 'tools' / name), *words])
        runpy.run_path(sys.argv[0], run_name='__main__')


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain run and a teacher with branches, by tools/train.py, with their configs."""
    root = tmp_path_factory.mktemp('tools')
    write_images(root / 'data')
    joint = dict(type='HSSAKDTeacher', joint=True)
    for name, kd in (('plain', None), ('joint', joint)):
        config(root / 'data', root / name, kd, epochs=1, log_level='INFO').dump(root / f'{name}.py')
        tool('train.py', str(root / f'{name}.py'))
    config(root / 'data', root, backbone=WIDER).dump(root / 'wider.py')
    return root


# train, test


def test_the_test_script_repeats_the_last_validation(folder: Path) -> None:
    """Of a checkpoint with branches, without building any."""
    metrics = json.loads((folder / 'joint' / 'run_summary.json').read_text())['metrics']
    log = folder / 'tested'
    for name in ('epoch_1.pth', 'recalibrated.pth'):
        files = str(folder / 'joint.py'), str(folder / 'joint' / name)
        own = 'experiment_name=tested_' + name[:5]  # both may start in the same second
        tool('test.py', *files, '--work-dir', str(log / name), '--cfg-options', own)
        (file,) = (log / name).glob('*/*.json')
        found = json.loads(file.read_text())
        if name == 'epoch_1.pth':
            assert found['accuracy/top1'] == pytest.approx(metrics['accuracy/top1'])
        (text,) = (log / name).glob('*/*.log')
        assert 'auxiliary branches' not in text.read_text()


def test_the_log_says_what_is_attached(folder: Path) -> None:
    (log,) = (folder / 'joint').glob('*/*.log')
    text = log.read_text()
    assert 'stage3: behind backbone.stages.2' in text
    for name in ('kd.loss_joint_stage1', 'kd.joint_accuracy_stage3', 'recalibrated.pth'):
        assert name in text


# a backbone for detectors


@pytest.mark.parametrize('depth, keys', [(18, 120), (50, 318)])
@pytest.mark.parametrize('file', ['recalibrated.pth', 'epoch_1.pth'])
def test_converted_backbone_computes_the_same(
    converted: Callable[[int], Run],
    depth: int,
    keys: int,
    file: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = converted(depth)
    out = tmp_path / 'backbone.pth'
    cli.convert_command([str(run.folder / file), '--to', 'mmdet', '--out', str(out)])
    said = capsys.readouterr().out
    assert f'source: mmpretrain ResNet-{depth} and width 8' in said
    assert f'keys: {keys} of {keys} keys of mmdet ResNet-{depth} and width 8' in said
    assert 'dropped: head. (2)' in said and '4 feature maps bit-equal' in said
    target = dict(type='ResNet', depth=depth, base_channels=8, stem_channels=8)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        last = loaded('mmdet', target, out)(images)[-1]
        assert torch.equal(last, run.plain(file).backbone(images)[-1])


@pytest.fixture(scope='module')
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Run]:
    """One iteration of a student at 32x32; trained once for all tests."""
    root = tmp_path_factory.mktemp('converted')
    data = write_images(root / 'data', 32)
    runs: dict[int, Run] = {}

    def of(depth: int) -> Run:
        if depth not in runs:
            backbone = dict(type='ResNet', depth=depth, base_channels=8, stem_channels=8)
            teacher = dict(model=dict(classifier(backbone), _scope_='mmpretrain'), random=True)
            kd = dict(type='HSSAKD', teacher=teacher)
            cfg = config(data, root / str(depth), kd, backbone, 1, train_dataloader__batch_size=12)
            runs[depth] = train(cfg)
        return runs[depth]

    return of


# what is refused

Change = Callable[[Config], Any]


def backbone_of(kind: str, channels: int, neck: Any = None, **options: Any) -> Change:
    def change(cfg: Config) -> None:
        cfg.model.backbone = dict(type=kind, **options)
        cfg.model.neck = neck
        cfg.model.head.in_channels = channels

    return change


def not_square(cfg: Config) -> None:
    cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=(12, 8)))


def mixup(cfg: Config) -> None:
    augments = dict(augments=dict(type='Mixup', alpha=0.8))
    cfg.model.data_preprocessor.batch_augments = augments


def segmentor(cfg: Config) -> None:
    cfg.model = dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=dict(type='mmseg.SegDataPreProcessor'),
        backbone=dict(type='mmseg.ResNetV1c', depth=18, stem_channels=4, base_channels=4),
        decode_head=dict(
            type='mmseg.FCNHead', in_channels=32, in_index=3, channels=4, num_convs=1, num_classes=3
        ),
        test_cfg=dict(mode='whole'),
    )


def teacher(**options: Any) -> dict[str, Any]:
    return dict(type='HSSAKD', teacher={**TEACHER, **options})


OTHER_CLASSES = dict(model=dict(classifier(SMALL, 5), _scope_='mmpretrain'), random=True)
WRONG: dict[str, tuple[Any, Change | None, tuple[str, ...]]] = {
    'no branches': (
        teacher(checkpoint='plain/epoch_1.pth'),
        None,
        ('kd.teacher.checkpoint', 'without trained auxiliary branches', 'HSSAKDTeacher'),
    ),
    'no file': (teacher(checkpoint='gone.pth'), None, ('kd.teacher.checkpoint', "'gone.pth'")),
    'another network': (
        teacher(config='wider.py'), None, ('kd.teacher.checkpoint', 'wrong shape', 'stages.1')
    ),
    'other classes': (
        dict(type='HSSAKD', teacher=OTHER_CLASSES), None, ('kd.teacher', '5 classes', '3', 'head')
    ),
    'fewer branches': (
        dict(STUDENT, stages=[0, 2]), None, ('kd.teacher', '3 branches', 'has 2', 'kd.stages')
    ),
    'more stages': (
        STUDENT,
        backbone_of(channels=32, neck=dict(type='GlobalAveragePooling'), kind=MMPRETRAIN['type'],
                    depth=18, stem_channels=4, base_channels=4),
        ('its 3 branches', 'has 4 (stage1, stage2, stage3, stage4)'),
    ),
    'stages out of range': (
        dict(ONLINE, stages=[1, 3]), None, ('kd.stages', '[1, 3]', 'CIFARResNet has 3 stages')
    ),
    'stages twice': (dict(ONLINE, stages=[1, 1]), None, ('kd.stages', 'ascending', '[1, 1]')),
    'not square': (ONLINE, not_square, ('square images', '8x12', 'crop or resize')),
    'a transformer': (
        ONLINE,
        backbone_of('VisionTransformer', 192, arch='deit-t', img_size=8, patch_size=4,
                    out_type='avg_featmap'),
        ('model.backbone', 'VisionTransformer', 'expected'),
    ),
    'a net without stages': (
        ONLINE,
        backbone_of('MobileNetV3', 576, dict(type='GlobalAveragePooling'), arch='small'),
        ('model.backbone', 'MobileNetV3', 'expected'),
    ),
    "another library's net": (
        ONLINE,
        backbone_of('mmseg.ResNet', 32, dict(type='GlobalAveragePooling'), depth=18,
                    stem_channels=4, base_channels=4),
        ('model.backbone', 'ResNet', 'expected'),
    ),
    'mixup': (ONLINE, mixup, ('batch_augments', 'Mixup', 'one class an image')),
    'random weights': (
        dict(type='HSSAKDTeacher'), None, ('load_from', 'random weights', 'kd.joint=True')
    ),
    'unknown type': (dict(type='HSAKD'), None, ('kd.type', "'HSAKD'", 'HSSAKDOnline')),
    'unknown key': (dict(STUDENT, taus=3), None, ("kd: unknown key 'taus'", 'nearest')),
    'key of the teacher': (teacher(checkpiont='x'), None, ("'checkpiont'", 'checkpoint')),
    'unknown part': (dict(STUDENT, weight=dict(logit=1)), None, ('kd.weight', "'logit'", 'logits')),
    'one peer': (dict(ONLINE, peers=1), None, ('kd.peers', 'got 1')),
    'recalibrate': (
        dict(ONLINE, recalibrate=dict(samples=9)), None, ('kd.recalibrate', "'samples'", 'num_')
    ),
    'recalibrate by number': (
        dict(ONLINE, recalibrate=500), None, ('kd.recalibrate', '500', 'num_samples')
    ),
    'a segmentor': (ONLINE, segmentor, ('model.type', 'EncoderDecoder', 'ImageClassifier')),
}  # fmt: skip


@pytest.mark.parametrize('case', WRONG)
def test_wrong_input_is_one_message(
    folder: Path, refused_by: Callable[..., str], case: str, tmp_path: Path
) -> None:
    kd, change, words = WRONG[case]
    cfg = config(folder / 'data', tmp_path / 'run', kd, epochs=1)
    if change is not None:
        change(cfg)
    cfg.dump(tmp_path / 'wrong.py')
    said = refused_by('train.py', str(tmp_path / 'wrong.py'), cwd=folder)
    (line,) = (line for line in said.splitlines() if line.startswith('kdmm: error'))
    rest = said[said.index(line) :]
    assert all(word in rest for word in words), said
    assert not list((tmp_path / 'run').glob('*.pth'))
