from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.runner import EpochBasedTrainLoop as BaseLoop
from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from kdmm.engine import Runner
from kdmm.engine.loops import (
    EpochBasedTrainLoop,
    check_not_empty,
    skip_batches,
    with_resumable_epochs,
)
from tests.engine.tiny_run import by_epoch, config, files
from tests.errors import refused


class Numbers(Dataset):
    """Notes what is loaded."""

    def __init__(self, size: int = 10) -> None:
        self.size, self.loaded = size, []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        self.loaded.append(int(index))
        return int(index)


class Pairs(BatchSampler):
    """Batches that do not come one after another from the sampler."""

    def __iter__(self):
        indices = list(self.sampler)
        return iter([[a, b] for a, b in zip(indices[:5], indices[5:], strict=True)])


def lists(batches) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def loader(**options: object) -> DataLoader:
    data = Numbers()
    if options.pop('pairs', False):
        return DataLoader(data, batch_sampler=Pairs(DefaultSampler(data, True, 3), 2, False))
    return DataLoader(data, 3, sampler=DefaultSampler(data, True, 3), **options)


@pytest.mark.parametrize('options', [{}, dict(drop_last=True), dict(pairs=True)])
def test_the_batches_behind_are_those_of_a_whole_pass_and_no_others_are_loaded(options):
    made = loader(**options)
    whole = lists(made)
    for done in range(len(whole) + 1):
        made.dataset.loaded.clear()  # type: ignore[attr-defined]
        assert lists(skip_batches(made, done)) == whole[done:]
        assert made.dataset.loaded == [index for batch in whole[done:] for index in batch]  # type: ignore[attr-defined]
        assert len(made) == len(whole)
    assert lists(made) == whole


def test_persistent_workers_draw_whole_passes_after_the_first():
    made = loader(num_workers=1, persistent_workers=True)
    behind = lists(skip_batches(made, 2))
    assert behind == lists(made)[2:] == lists(skip_batches(loader(), 2))


def test_a_loader_without_batch_sampler_drops_what_was_trained():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(6))

    assert list(skip_batches(DataLoader(Stream(), batch_size=None), 4)) == [4, 5]


@pytest.mark.parametrize(
    'config, kind',
    [
        (dict(type='EpochBasedTrainLoop', max_epochs=2), EpochBasedTrainLoop),
        (dict(type=BaseLoop, max_epochs=2), EpochBasedTrainLoop),
        (dict(by_epoch=True, max_epochs=2), EpochBasedTrainLoop),
        (dict(by_epoch=False, max_iters=2), None),
        (dict(type='IterBasedTrainLoop', max_iters=2), None),
        (dict(type='Nobody'), None),
    ],
)
def test_mmengines_loop_is_exchanged_and_no_other(config, kind):
    made = with_resumable_epochs(config)
    assert made == (config if kind is None else dict(type=kind, max_epochs=2))


# training that would be none


def loop(size: int, sampler: type, **options: object) -> SimpleNamespace:
    data = Numbers(size)
    made = DataLoader(data, sampler=sampler(data, seed=0) if size else [], **options)
    return SimpleNamespace(dataloader=made, max_iters=5, max_epochs=1)


def test_a_loader_without_a_batch_is_refused():
    with refused(key='train_dataloader', problem=('7 samples', 'batch_size=8', 'drop_last=True')):
        check_not_empty(loop(7, DefaultSampler, batch_size=8, drop_last=True))
    with refused(key='train_dataloader', problem='0 samples'):
        check_not_empty(loop(0, DefaultSampler, batch_size=8))


def test_one_batch_is_enough_and_an_endless_sampler_needs_none():
    check_not_empty(loop(8, DefaultSampler, batch_size=8, drop_last=True))
    check_not_empty(loop(7, DefaultSampler, batch_size=8))
    check_not_empty(loop(7, InfiniteSampler, batch_size=8, drop_last=True))


@pytest.mark.parametrize('kd', ['given', None])
def test_nothing_is_written_by_a_run_that_would_train_nothing(tmp_path, kd):
    cfg = by_epoch(config(tmp_path, **(dict(kd=None) if kd is None else {})))
    cfg.train_dataloader.update(batch_size=16, drop_last=True)
    with refused(key='train_dataloader', problem='no batch'):
        Runner.from_cfg(cfg).train()
    assert files(tmp_path) == []


@pytest.mark.parametrize('key', ['max_iters', 'max_epochs'])
def test_a_length_of_nothing_is_refused(tmp_path, key):
    cfg = config(tmp_path)
    cfg = by_epoch(cfg) if key == 'max_epochs' else cfg
    cfg.train_cfg[key] = 0
    with refused(key=f'train_cfg.{key}', got=0, expected='at least 1'):
        Runner.from_cfg(cfg).train()


def test_an_endless_sampler_with_a_batch_larger_than_the_data_trains(tmp_path):
    cfg = config(tmp_path, iters=2)
    cfg.train_dataloader.update(batch_size=16, drop_last=True)
    made = Runner.from_cfg(cfg)
    made.train()
    assert made.iter == 2 and isinstance(made.train_loop, IterBasedTrainLoop)


@pytest.mark.parametrize('epochs', [False, True])
def test_a_finished_run_says_so_and_keeps_its_summary(tmp_path, epochs):
    def cfg():
        made = config(tmp_path, log_level='WARNING')
        return by_epoch(made) if epochs else made

    Runner.from_cfg(cfg()).train()
    summary = (tmp_path / 'run_summary.json').read_text()
    weights = torch.load(tmp_path / files(tmp_path)[-1], weights_only=False)['state_dict']
    again = cfg()
    again.resume = True
    made = Runner.from_cfg(again)
    made.train()
    text = ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))
    assert 'is finished' in text and (tmp_path / 'run_summary.json').read_text() == summary
    assert all(torch.equal(made.model.state_dict()[key], weights[key]) for key in weights)


def test_epochs_of_different_lengths_on_the_ranks_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr('kdmm.engine.loops.all_gather_object', lambda mine: [mine, mine - 1])
    with refused(key='train_dataloader', problem='[4, 3] batches', fix='round_up=True'):
        Runner.from_cfg(by_epoch(config(tmp_path / 'epochs'))).train()
    Runner.from_cfg(config(tmp_path / 'iterations', iters=1)).train()  # no rank waits for an end
