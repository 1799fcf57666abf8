import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader

pytest.importorskip('mmpretrain')

from kdmm.hooks.recalibrate import RecalibrateBNHook  # noqa: E402
from tests.e2e.job import assert_same  # noqa: E402
from tests.e2e.tiny_hssakd import BATCH, SMALL, Run, config, snapshot, train, write_images  # noqa: E402
from tests.errors import refused  # noqa: E402

KINDS = dict(
    joint=dict(type='HSSAKDTeacher', joint=True),
    few=dict(type='HSSAKDTeacher', joint=True, recalibrate=dict(num_samples=1)),
    online=dict(type='HSSAKDOnline'),
    off=dict(type='HSSAKDTeacher', joint=True, recalibrate=False),
    frozen=dict(type='HSSAKDTeacher', random=True),
)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp('images'))


@pytest.fixture(scope='module')
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The images in the order of their names, as they are."""
    root, found = tmp_path_factory.mktemp('runs'), {}
    for name, kd in KINDS.items():
        cfg = config(data, root / name, copy.deepcopy(kd), epochs=1)
        cfg.train_dataloader.sampler.shuffle = False
        del cfg.train_dataloader.dataset.pipeline[1]  # the flip
        found[name] = train(cfg)
    return found


@torch.no_grad()
def naive(model: nn.Module, data: Path, batches: int) -> dict[str, Tensor]:
    """Mean over batches of each layer's mean and unbiased variance, in double precision."""
    model = model.double().train()
    sums: dict[str, Tensor] = {}
    for name, part in model.named_modules():
        if isinstance(part, nn.BatchNorm2d):

            def note(part: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
                rows = inputs[0].transpose(0, 1).flatten(1)  # (C, B * H * W)
                for key, value in dict(mean=rows.mean(1), var=rows.var(1)).items():
                    key = f'{name}.running_{key}'
                    sums[key] = sums.get(key, 0) + value / batches

            part.register_forward_pre_hook(note)
    files = sorted((data / 'train').rglob('*.jpg'))
    for start in range(0, batches * BATCH, BATCH):
        images = [cv2.imread(str(file))[..., ::-1].copy() for file in files[start : start + BATCH]]
        x = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images]).double()
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((125.0, 120, 110), (60.0, 61, 62)))
        model((x - mean) / std)
    return sums


def check(run: Run, weights: dict[str, Tensor], written: str, data: Path, batches: int) -> None:
    """``written`` has the naive statistics and otherwise what ``weights`` has."""
    found = run.file(written)['state_dict']
    assert list(found) == list(weights)
    expected = naive(run.plain(weights), data, batches)
    assert len(expected) == 2 * 9
    for key, value in found.items():
        if key in expected:
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-4, atol=1e-5)
            assert (value - weights[key]).abs().max() > 1e-3, key
        elif 'num_batches_tracked' not in key:
            assert torch.equal(value, weights[key]), key


@pytest.mark.parametrize('name, batches', [('joint', 3), ('few', 1), ('online', 3)])
def test_statistics_of_unrotated_images(
    runs: dict[str, Run], data: Path, name: str, batches: int
) -> None:
    """Of all twelve, and of one batch where fewer are asked for than it has."""
    weights = runs[name].file('epoch_1.pth')['state_dict']
    check(runs[name], dict(weights), 'recalibrated.pth', data, batches)


def test_statistics_of_a_peer(runs: dict[str, Run], data: Path) -> None:
    weights = runs['online'].file('peer1.pth')['state_dict']
    check(runs['online'], dict(weights), 'peer1_recalibrated.pth', data, 3)


@pytest.mark.parametrize('name', ['joint', 'online'])
def test_the_runs_own_network_stays_as_trained(runs: dict[str, Run], name: str) -> None:
    """In memory and in its files, with branches and peers and the counters."""
    content, own = runs[name].file('epoch_1.pth'), snapshot(runs[name].model)
    entry = {f'kd.{key}': value for key, value in content['kdmm'].items()}
    assert_same(own, {**content['state_dict'], **entry})
    assert any('branches.stage1' in key and 'running_mean' in key for key in entry)


def test_training_is_the_same_without(runs: dict[str, Run]) -> None:
    one, other = (runs[name].file('epoch_1.pth') for name in ('joint', 'off'))
    for entry in ('state_dict', 'kdmm', 'optimizer'):
        assert_same(one[entry], other[entry], entry)


@pytest.mark.parametrize('name', ['off', 'frozen'])
def test_nothing_to_recalibrate(runs: dict[str, Run], name: str) -> None:
    assert not list(runs[name].folder.glob('*recalibrated*'))


def test_statistics_that_are_kept_are_kept(data: Path, tmp_path: Path) -> None:
    """A backbone with norm_eval says that its statistics are not to change."""
    backbone = dict(SMALL, norm_eval=True)
    run = train(config(data, tmp_path, copy.deepcopy(KINDS['joint']), backbone, epochs=1))
    assert (run.folder / 'epoch_1.pth').is_file()
    assert not list(run.folder.glob('*recalibrated*'))


def test_frozen_stages_keep_theirs(data: Path, tmp_path: Path) -> None:
    backbone = dict(SMALL, frozen_stages=1)
    run = train(config(data, tmp_path, copy.deepcopy(KINDS['joint']), backbone, epochs=1))
    found, last = (run.file(name)['state_dict'] for name in ('recalibrated.pth', 'epoch_1.pth'))
    means = {key for key in found if 'running_mean' in key}
    frozen = {key for key in means if key.startswith(('backbone.stem', 'backbone.stages.0'))}
    changed = {key for key in means if not torch.equal(found[key], last[key])}
    assert frozen and changed == means - frozen


@pytest.mark.parametrize('size', [2, None])
def test_a_loader_of_batches_without_size(size: int | None) -> None:
    """As torch's is, where it has a batch sampler."""
    loader: DataLoader[int] = DataLoader([1, 2, 3], 2)
    if size is None:
        loader = DataLoader([1, 2, 3], batch_sampler=BatchSampler([0, 1, 2], 2, False))
    runner = SimpleNamespace(train_dataloader=loader)
    if size:
        RecalibrateBNHook().before_train(runner)
        return
    with refused(key='kd.recalibrate', problem='train_dataloader.batch_sampler'):
        RecalibrateBNHook().before_train(runner)


@pytest.mark.parametrize('value', [0, -5, 2.0, True, '100', None])
def test_wrong_number(value: Any) -> None:
    with refused(key='kd.recalibrate.num_samples', got=value, expected='positive whole'):
        RecalibrateBNHook(num_samples=value)
