"""The CIFAR bases: what they give a network, and the tiny data by which configs are tested."""

import math
import os
import pickle
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS, MODELS

pytest.importorskip('mmpretrain')

from kdmm.engine import build_runner, check_data  # noqa: E402
from tests.errors import refused  # noqa: E402

from .tiny_cifar import shrink_cifar, write_folder  # noqa: E402

BASES = Path(__file__).parents[2] / 'configs/_base_/datasets'
ARCHIVES = Path(__file__).parents[3] / 'shared/data/cifar10'
CLASSES = (
    'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck',
)  # fmt: skip

MODEL = """
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8,
                  out_indices=(1, 2, 3), norm_cfg=dict(type='BN')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes={classes}, in_channels=64, topk=(1, 5),
              loss=dict(type='CrossEntropyLoss')))
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, nesterov=True))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[150, 180, 210])
train_cfg = dict(by_epoch=True, max_epochs=240, val_interval=1)
val_cfg = dict()
test_cfg = dict()
"""


def base(name: str) -> Config:
    return Config.fromfile(BASES / name)


def build(dataset: Any) -> Any:
    with DATASETS.switch_scope_and_registry('mmpretrain') as registry:
        return registry.build(dataset)


def normalised(cfg: Config, data: Any, indices: Any) -> torch.Tensor:
    """(B, 3, H, W), as a network gets them."""
    prepare = MODELS.build(dict(type='mmpretrain.ClsDataPreprocessor', **cfg.data_preprocessor))
    items = [data[int(index)] for index in indices]
    samples = [item['data_samples'] for item in items]
    return prepare(dict(inputs=[item['inputs'] for item in items], data_samples=samples))['inputs']


def black(cfg: Config) -> torch.Tensor:
    mean, std = (torch.tensor(cfg.data_preprocessor[key]) for key in ('mean', 'std'))
    return -mean / std


def count_black_edges(images: torch.Tensor, value: torch.Tensor) -> int:
    edges = (images[..., 0], images[..., -1], images[..., 0, :], images[..., -1, :])
    return sum(int((e == value[:, None]).flatten(1).all(1).sum()) for e in edges)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive in the format of CIFAR-100: red images of label i, and white ones."""
    from mmpretrain.datasets import CIFAR100

    (tmp_path / 'cifar-100-python').mkdir()
    planes = np.zeros((100, 3, 1024), np.uint8)
    planes[:, 0] = 255
    planes[50:] = 255
    for name in ('train', 'test'):
        content = dict(data=planes.reshape(100, -1), fine_labels=list(range(100)))
        (tmp_path / 'cifar-100-python' / name).write_bytes(pickle.dumps(content))
    monkeypatch.setattr(CIFAR100, 'train_list', [['train', None]])
    monkeypatch.setattr(CIFAR100, 'test_list', [['test', None]])
    return tmp_path


def test_cifar100_gives_rgb_padded_with_black(archive: Path) -> None:
    cfg = base('cifar100.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(archive)
    value, white = black(cfg), black(cfg) + 255 / torch.tensor(cfg.data_preprocessor.std)
    plain = normalised(cfg, build(cfg.val_dataloader.dataset), range(100))
    red = torch.stack([white[0], value[1], value[2]])
    torch.testing.assert_close(plain[:50], red[:, None, None].expand(50, 3, 32, 32))
    torch.testing.assert_close(plain[50:], white[:, None, None].expand(50, 3, 32, 32))
    augmented = normalised(cfg, build(cfg.train_dataloader.dataset), [*range(50, 100)] * 4)
    assert augmented.shape == (200, 3, 32, 32)
    edges = count_black_edges(augmented, value)
    assert 320 < edges < 390  # 8 of 9 offsets along an axis bare an edge: 356 expected


def test_cifar100_folder_is_asked_for() -> None:
    with refused(
        key='train_dataloader.dataset.data_root', got='data/cifar100', fix='official archive'
    ):
        check_data(base('cifar100.py'), ('train',))


def test_cifar10_folder_is_found_by_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('CIFAR10_ROOT', raising=False)
    assert base('cifar10_folder.py').train_dataloader.dataset.data_root == 'data/cifar10'
    monkeypatch.setenv('CIFAR10_ROOT', str(tmp_path))
    assert base('cifar10_folder.py').test_dataloader.dataset.data_root == str(tmp_path)


@pytest.mark.parametrize('name', ['cifar100.py', 'cifar10_folder.py'])
def test_recipe_of_the_references(name: str) -> None:
    cfg = base(name)
    train, val = cfg.train_dataloader, cfg.val_dataloader
    assert (train.batch_size, train.drop_last, train.num_workers) == (64, False, 4)
    assert train.persistent_workers and val.persistent_workers
    assert cfg.test_dataloader == val and cfg.val_evaluator.topk == (1, 5)
    assert not [key for key in cfg if key in ('model', 'custom_imports')]
    steps = [step for step in train.dataset.pipeline if step.type != 'LoadImageFromFile']
    assert [step.type for step in steps] == ['RandomCrop', 'RandomFlip', 'PackInputs']


def test_statistics_of_the_references() -> None:
    """They are stated for values of 0 to 1."""
    found = base('cifar100.py').data_preprocessor
    assert found.mean == pytest.approx([255 * x for x in (0.5071, 0.4867, 0.4408)])
    assert found.std == pytest.approx([255 * x for x in (0.2675, 0.2565, 0.2761)])


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """`cifar10_folder` on white images, and pure red, green and blue ones."""
    for label, name in enumerate(CLASSES):
        rgb = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)][min(label, 3)]
        for split in ('train', 'test'):
            (tmp_path / split / name).mkdir(parents=True)
            image = np.full((32, 32, 3), rgb[::-1], np.uint8)
            cv2.imwrite(str(tmp_path / split / name / '0.png'), image)
    monkeypatch.setenv('CIFAR10_ROOT', str(tmp_path))
    return base('cifar10_folder.py')


def test_cifar10_folder_gives_rgb_padded_with_black(colours: Config) -> None:
    value = black(colours)
    white = value + 255 / torch.tensor(colours.data_preprocessor.std)
    data = build(colours.val_dataloader.dataset)
    plain = normalised(colours, data, range(4))[:, :, 0, 0]
    for channel in range(3):
        expected = value.clone()
        expected[channel] = white[channel]
        torch.testing.assert_close(plain[channel], expected)
    torch.testing.assert_close(plain[3], white)
    train = build(colours.train_dataloader.dataset)
    augmented = normalised(colours, train, [*range(3, 10)] * 30)
    assert 335 < count_black_edges(augmented, value) < 412  # 373 expected, see above


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Path]:
    """CIFAR-10 as files: where CIFAR10_ROOT says, or the archives beside the checkout, unpacked."""
    if 'CIFAR10_ROOT' in os.environ:
        yield Path(os.environ['CIFAR10_ROOT'])
        return
    if not ARCHIVES.is_dir():
        pytest.skip(f'no CIFAR10_ROOT, and no archives at {ARCHIVES}')
    for archive in sorted(ARCHIVES.glob('*.tar.gz')):
        shutil.unpack_archive(archive, tmp_path)
    yield tmp_path
    shutil.rmtree(tmp_path)  # sixty thousand files


def test_real_cifar10(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CIFAR10_ROOT', str(real))
    cfg = base('cifar10_folder.py')
    check_data(cfg, ('train', 'val', 'test'))
    dataset = dict(cfg.train_dataloader.dataset, pipeline=cfg.test_pipeline)
    train, test = build(dataset), build(cfg.test_dataloader.dataset)
    assert train.metainfo['classes'] == test.metainfo['classes'] == CLASSES
    assert Counter(train.get_gt_labels().tolist()) == dict.fromkeys(range(10), 5000)
    assert Counter(test.get_gt_labels().tolist()) == dict.fromkeys(range(10), 1000)
    images = normalised(cfg, train, np.random.RandomState(0).permutation(50000)[:3000])
    assert images.mean((0, 2, 3)).abs().max() < 0.05  # in the wrong order 0.19
    assert (images.transpose(0, 1).flatten(1).std(1) - 1).abs().max() < 0.02


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('cifar')
    write_folder(root, classes=2, per_class=4)
    return root


def full(name: str, extra: str = '') -> Config:
    """A whole config on one of the bases."""
    data = 'mmpretrain::_base_/datasets/imagenet_bs32.py'
    if name != 'imagenet':
        data = str(BASES / name)
    classes = {'cifar100.py': 100, 'cifar10_folder.py': 10, 'imagenet': 1000}[name]
    bases = [data, 'mmpretrain::_base_/default_runtime.py']
    return Config.fromstring(f'_base_ = {bases!r}\n{MODEL.format(classes=classes)}{extra}', '.py')


KD = """
kd = dict(teacher=dict(config={teacher!r}, checkpoint='none.pth'), taps=dict(logits='head.fc.out'),
          losses=dict(kd=dict(type='KDLoss', on='logits', temperature=4.0)))
"""


@pytest.mark.parametrize('name', ['cifar100.py', 'cifar10_folder.py', 'imagenet'])
def test_shrunk_configs_run(name: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / 'teacher.py').write_text(MODEL.format(classes=7) + "default_scope = 'mmpretrain'\n")
    cfg = full(name, KD.format(teacher=str(tmp_path / 'teacher.py')))
    shrink_cifar(cfg, folder, tmp_path / 'work')
    check_data(cfg, ('train', 'val', 'test'))
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 2 and runner.epoch == 1
    logged = MessageHub.get_instance(runner.experiment_name).log_scalars
    assert math.isfinite(logged['train/loss'].current())
    assert len(logged['train/loss'].data[0]) == 2
    assert 'val/accuracy/top1' in logged
    assert next(iter(runner.train_dataloader))['inputs'][0].shape == (3, 32, 32)
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_wrappers_stay(folder: Path, tmp_path: Path) -> None:
    cfg = full('cifar10_folder.py')
    cfg.train_dataloader.dataset = dict(
        type='kdmm.StratifiedSubset', dataset=cfg.train_dataloader.dataset, fraction=0.5
    )
    cfg.load_from = 'none.pth'
    shrink_cifar(cfg, folder, tmp_path)
    runner = build_runner(cfg)
    runner.train()
    assert len(runner.train_dataloader.dataset) == 4 and runner.iter == 2
    assert cfg.load_from == str(tmp_path / 'random_weights.pth')


@pytest.mark.parametrize('joint', [False, True])
def test_a_frozen_network_gets_weights(joint: bool, folder: Path, tmp_path: Path) -> None:
    cfg = full('cifar100.py', f"kd = dict(type='HSSAKDTeacher', joint={joint})")
    shrink_cifar(cfg, folder, tmp_path / 'work')
    assert bool(cfg.load_from) is not joint
    if not joint:
        state = torch.load(cfg.load_from, weights_only=True)['state_dict']
        assert state['head.fc.weight'].shape == (2, 64)


def test_an_iteration_based_config(folder: Path, tmp_path: Path) -> None:
    cfg = full('cifar100.py')
    cfg.train_cfg = dict(_delete_=True, by_epoch=False, max_iters=1000, val_interval=100)
    shrink_cifar(cfg, folder, tmp_path)
    assert cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == 2


def test_the_images_can_be_learnt(folder: Path, tmp_path: Path) -> None:
    """By the nearest mean of the training images, on the others; each seed draws its own."""

    def images(root: Path, split: str, label: int) -> np.ndarray:
        paths = sorted((root / split / f'class_{label:02d}').iterdir())
        return np.stack([cv2.imread(str(path)).astype(float) for path in paths])

    write_folder(tmp_path / 'three', classes=3, per_class=2)
    means = [images(tmp_path / 'three', 'train', label).mean(0) for label in range(3)]
    for label in range(3):
        for image in images(tmp_path / 'three', 'test', label):
            assert np.argmin([((image - mean) ** 2).mean() for mean in means]) == label
    write_folder(tmp_path / 'again', classes=2, per_class=4)
    write_folder(tmp_path / 'other', classes=2, per_class=4, seed=1)
    first = (folder / 'train/class_00/0000.jpg').read_bytes()
    assert (tmp_path / 'again/train/class_00/0000.jpg').read_bytes() == first
    assert (tmp_path / 'other/train/class_00/0000.jpg').read_bytes() != first
