import random
import uuid
from collections import Counter

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, RepeatDataset
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner as PlainRunner
from mmengine.runner import loops

import kdmm
from kdmm.datasets import PKSampler, SeededDataset, SeededSampler, StratifiedSubset
from kdmm.datasets.class_sampler import check_batch_size
from kdmm.engine.runner import Runner
from kdmm.registry import DATA_SAMPLERS, DATASETS
from tests.errors import refused

from .labelled import LabelsOnly

CLASSES = ('ape', 'bee', 'cat', 'dog', 'elk', 'fox', 'gnu')
COUNTS = (3, 4, 5, 6, 7, 8, 9)
LABELS = [label for _ in range(9) for label, count in enumerate(COUNTS) if _ < count]
SIZE = len(LABELS)  # 42


@DATASETS.register_module(force=True)
class ClassesOnly(LabelsOnly):
    """Item ``i`` is the number, its label and a random number; items cannot be read for labels."""

    METAINFO = dict(classes=CLASSES)
    LABELS = LABELS

    def __getitem__(self, idx):
        return dict(inputs=torch.tensor([idx, self.labels[idx], random.random()]))


def sampler(data=None, p=3, k=2, seed=5, rank=0, world=1) -> PKSampler:
    """As rank ``rank`` of ``world`` builds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('kdmm.datasets.class_sampler.get_dist_info', lambda: (rank, world))
        return PKSampler(ClassesOnly() if data is None else data, p, k, seed)


def batches(made: PKSampler, epoch: int = 0) -> list[list[int]]:
    made.set_epoch(epoch)
    indices = list(made)
    return [indices[i : i + made.batch_size] for i in range(0, len(indices), made.batch_size)]


def classes(batch) -> Counter:
    return Counter(LABELS[index] for index in batch)


@pytest.mark.parametrize(('p', 'k'), [(3, 2), (2, 3), (7, 3), (1, 3), (5, 1), (1, 1)])
def test_every_batch_is_p_classes_of_k_different_images(p, k):
    found = batches(sampler(p=p, k=k))
    assert len(found) == SIZE // (p * k)
    for batch in found:
        assert len({*batch}) == p * k
        assert [*classes(batch).values()] == [k] * p


@pytest.mark.parametrize('world', [1, 2, 3])
def test_ranks_share_neither_classes_nor_images(world):
    ranks = [sampler(p=2, rank=rank, world=world) for rank in range(world)]
    assert {len(made) for made in ranks} == {SIZE // (4 * world) * 4}
    shares = [batches(made) for made in ranks]
    assert {len(share) for share in shares} == {SIZE // (4 * world)}
    for step in zip(*shares, strict=True):
        for batch in step:
            assert len({*batch}) == 4 and [*classes(batch).values()] == [2, 2]
        assert len(set().union(*(classes(batch) for batch in step))) == 2 * world


@pytest.mark.parametrize('world', [2, 3])
def test_ranks_together_see_what_one_sees(world):
    """In MMEngine's order, with the places of the stream that `SeededSampler` gives."""
    alone = SeededSampler(dict(type='PKSampler', classes_per_batch=6, samples_per_class=2),
                          ClassesOnly(), 5)  # fmt: skip
    shares = []
    for rank in range(world):
        with pytest.MonkeyPatch.context() as patch:
            for target in ('class_sampler', 'seeded'):
                patch.setattr(f'kdmm.datasets.{target}.get_dist_info', lambda r=rank: (r, world))
            config = dict(type='PKSampler', classes_per_batch=6 // world, samples_per_class=2)
            shares.append(list(SeededSampler(config, ClassesOnly(), 5)))
    merged = [index for step in zip(*shares, strict=True) for index in step]
    assert merged == list(alone) and len(merged) == 36
    assert [i.entropy for i in merged] == [i.entropy for i in alone]


def test_the_recipe_of_mcl():
    """CIFAR-100: 390 batches of 128, and all classes and images are drawn alike."""
    data = ClassesOnly(labels=[i % 100 for i in range(50_000)])
    made = sampler(data, p=64, k=2)
    assert len(made) == 49_920
    times, often = np.zeros(50_000, int), np.zeros(100, int)
    for batch in batches(made):
        labels = np.array(batch) % 100
        assert len({*batch}) == 128 and (np.unique(labels, return_counts=True)[1] == 2).all()
        times[batch] += 1
        often[np.unique(labels)] += 1
    assert len(batches(made)) == 390
    assert abs(often - 249.6).max() < 40  # standard deviation 9.5
    assert 0.34 < (times == 0).mean() < 0.40  # exp(-1), images repeat or are missed


def test_passes_and_seeds_differ_and_come_again():
    drawn = [batches(sampler(seed=seed), epoch) for seed in (5, 6) for epoch in (0, 1)]
    assert len({str(one) for one in drawn}) == 4
    made = sampler()
    later = batches(made, 1)
    assert batches(made, 0) == drawn[0] and later == drawn[1] == batches(made, 1)


def test_batches_of_a_pass_differ():
    found = batches(sampler())
    assert len({frozenset(classes(batch)) for batch in found}) > 3
    assert len({frozenset(batch) for batch in found}) == len(found)


def test_this_is_what_seed_5_draws():
    """So that a report's batches can be had again, and other processes draw the same."""
    assert batches(sampler())[:2] == [[9, 33, 0, 16, 29, 7], [30, 21, 10, 5, 15, 17]]


def test_the_process_random_state_is_neither_read_nor_moved():
    drawn = []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        expected = random.random(), np.random.rand(), torch.rand(1)
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        drawn.append(batches(sampler()))
        assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert drawn[0] == drawn[1]


def test_a_pass_that_began_stays_what_it_is():
    made = sampler()
    expected = batches(made, 0)
    made.set_epoch(0)
    started = iter(made)
    made.set_epoch(1)
    assert list(started) == sum(expected, [])


def test_without_a_seed_ranks_agree_on_one(monkeypatch):
    monkeypatch.setattr('kdmm.datasets.class_sampler.sync_random_seed', lambda: 5)
    assert batches(sampler(seed=None)) == batches(sampler())
    assert sampler(seed=0).seed == 0


# labels


def test_labels_are_those_of_get_cat_ids():
    class Other(ClassesOnly):
        def get_cat_ids(self, idx):
            return [idx % 2]

    for batch in batches(sampler(Other(), p=2)):
        assert sorted(index % 2 for index in batch) == [0, 0, 1, 1]


def test_around_a_subset():
    """The indices are the subset's own."""
    data = StratifiedSubset(ClassesOnly(), per_class=3)
    made = sampler(data, p=7, k=3)
    assert len(made) == 21 and sorted(made) == list(range(21))


@pytest.mark.parametrize('seeded', [False, True])
def test_around_a_repetition(seeded):
    """MMEngine's wrappers have no ``get_cat_ids``."""
    data = RepeatDataset(ClassesOnly(), times=3)
    if seeded:
        data = SeededDataset(data)
    made = sampler(data)
    assert len(made) == 3 * SIZE
    drawn = batches(made)
    for batch in drawn:
        assert [*Counter(LABELS[i % SIZE] for i in batch).values()] == [2, 2, 2]
    assert max(map(max, drawn)) > 2 * SIZE


def test_a_data_set_that_leaves_get_cat_ids_to_its_base():
    class Bare(ClassesOnly):
        get_cat_ids = BaseDataset.get_cat_ids

    assert batches(sampler(Bare())) == batches(sampler())


def test_numbers_of_numpy_are_labels():
    class Arrays(ClassesOnly):
        def get_cat_ids(self, idx):
            return np.array([LABELS[idx]])

    assert batches(sampler(Arrays())) == batches(sampler())


def test_classes_without_images_are_never_drawn():
    data = ClassesOnly(labels=[0] * 4 + [6] * 4)
    assert len(sampler(data, p=2)) == 8
    with refused(key='PKSampler.classes_per_batch', got=3, expected='has images of, 2'):
        sampler(data, p=3)


@pytest.mark.parametrize(
    'label',
    [None, -1, 'ape', [1, 2]],
)
def test_images_without_one_label_are_refused(label):
    class Bare(ClassesOnly):
        get_cat_ids = BaseDataset.get_cat_ids

    for kind in (Bare, ClassesOnly) if label is None else (Bare,):
        with refused(key='PKSampler', got=[label], problem=f'image 2 of {kind.__name__}'):
            sampler(kind(labels=[0, 1, label, 0]), p=1)


@pytest.mark.parametrize('labels', [[], [1, 2]])
def test_images_of_no_or_several_classes_are_refused(labels):
    class Several(ClassesOnly):
        def get_cat_ids(self, idx):
            return labels if idx == 3 else [0]

    with refused(key='PKSampler', got=labels, problem='image 3 of Several'):
        sampler(Several(), p=1)


def test_a_data_set_without_labels_is_refused():
    with refused(key='PKSampler', got=[], problem='image 0 of list', fix='get_cat_ids'):
        sampler([1, 2, 3])


# refusals


@pytest.mark.parametrize('value', [0, -1, 2.0, '2', True, None])
@pytest.mark.parametrize('key', ['p', 'k'])
def test_sizes_are_positive_whole_numbers(key, value):
    name = dict(p='classes_per_batch', k='samples_per_class')[key]
    with refused(key=f'PKSampler.{name}', got=value):
        sampler(**{key: value})


def test_too_few_images_of_a_class():
    key = 'PKSampler.samples_per_class'
    with refused(key=key, got=4, problem="3 image(s) of class 'ape'"):
        sampler(k=4)
    with refused(key=key, got=5, problem="4 image(s) of class 'bee'"):
        sampler(ClassesOnly(labels=LABELS + [0] * 5), k=5)


def test_a_class_without_a_name_is_named_by_its_number():
    with refused(key='PKSampler.samples_per_class', problem='1 image(s) of class 9'):
        sampler(ClassesOnly(labels=[*LABELS, 9]))


def test_too_few_classes():
    sampler(p=7)
    with refused(key='PKSampler.classes_per_batch', got=8, problem='8 a step', expected='of, 7'):
        sampler(p=8)


def test_too_few_classes_for_all_ranks():
    sampler(p=3, world=2)
    told = dict(problem=('each of 2 rank', '8 a step'), expected='of, 7')
    with refused(key='PKSampler.classes_per_batch', got=4, **told):
        sampler(p=4, world=2)


# in a Runner


def loader(batch_size=6, workers=0, **options) -> dict:
    return dict(
        batch_size=batch_size,
        num_workers=workers,
        dataset=dict(type='kdmm.ClassesOnly'),
        sampler=dict(type='kdmm.PKSampler', classes_per_batch=3, samples_per_class=2),
        **options,
    )


def seeded_loader(**options) -> dict:
    made = loader(**options)
    made['dataset'] = dict(type='kdmm.SeededDataset', dataset=made['dataset'])
    made['sampler'] = dict(type='kdmm.SeededSampler', sampler=made['sampler'])
    return made


@pytest.mark.parametrize('make', [loader, seeded_loader])
@pytest.mark.parametrize('options', [dict(workers=1), dict(drop_last=True)])
def test_a_runner_builds_its_loader(make, options):
    built = PlainRunner.build_dataloader(make(**options), seed=5)
    check_batch_size(built)
    found = [[int(item[0]) for item in batch['inputs']] for batch in built]
    assert len(built) == len(found) == 7 and found == batches(sampler())


@pytest.mark.parametrize('make', [loader, seeded_loader])
def test_another_batch_size_is_refused(make):
    for size in (4, 12):
        built = PlainRunner.build_dataloader(make(batch_size=size), seed=5)
        told = dict(key='train_dataloader.batch_size', got=size, expected='6')
        with refused(**told, problem='3 classes x 2'):
            check_batch_size(built)
        with refused(**told):
            Runner.build_dataloader(make(batch_size=size), seed=5)
    assert Runner.build_dataloader(make(), seed=5).batch_size == 6


def test_a_batch_sampler_is_refused():
    class Batches(torch.utils.data.BatchSampler):
        pass

    made = torch.utils.data.DataLoader(range(SIZE), batch_sampler=Batches(sampler(), 6, False))
    with refused(key='train_dataloader.batch_size', got=None, expected='6', fix='batch_sampler'):
        check_batch_size(made)


def test_other_loaders_pass():
    check_batch_size(torch.utils.data.DataLoader([1, 2, 3], batch_size=2))
    check_batch_size(torch.utils.data.DataLoader([1, 2, 3], batch_size=None))
    other = loader(batch_size=5)
    other['sampler'] = dict(type='DefaultSampler', shuffle=True)
    check_batch_size(PlainRunner.build_dataloader(other, seed=5))


@MODELS.register_module(force=True)
class Notes(BaseModel):
    """Remembers the batches it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def forward(self, inputs, mode='loss'):
        self.seen.append(torch.stack(inputs))
        return dict(loss=self.weight.square())


def run(work_dir, train_cfg, **options) -> list[list]:
    """Batches that a run saw; reproducible, so the random number of an item counts."""
    cfg = dict(
        model=dict(type='Notes'),
        work_dir=str(work_dir),
        train_cfg=train_cfg,
        train_dataloader=loader(),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=dict(
            type='CheckpointHook', interval=1, by_epoch=train_cfg['by_epoch'],
        )),
        randomness=dict(seed=5),
        reproducible=True,
        experiment_name=f'pk_{uuid.uuid4().hex}',
    )  # fmt: skip
    runner = Runner.from_cfg(Config({**cfg, **options}))
    runner.train()
    return [batch.tolist() for batch in runner.model.seen]


@pytest.mark.parametrize(
    ('whole', 'part', 'seen'),
    [
        (dict(by_epoch=True, max_epochs=3), dict(by_epoch=True, max_epochs=1), 7),
        (dict(by_epoch=False, max_iters=17), dict(by_epoch=False, max_iters=10), 10),
    ],
    ids=['epochs', 'iterations'],
)
def test_a_resumed_run_continues_the_sequence(tmp_path, monkeypatch, whole, part, seen):
    monkeypatch.setattr(loops.time, 'sleep', lambda seconds: None)
    expected = run(tmp_path / 'whole', whole)
    for step, batch in enumerate(expected):
        numbers = [int(item[0]) for item in batch]
        assert numbers == batches(sampler(), step // 7)[step % 7]
    first = run(tmp_path / 'part', part)
    assert first == expected[:seen] and len(first) == seen
    rest = run(tmp_path / 'part', whole, resume=True, randomness=dict(seed=6))  # the file's counts
    assert rest == expected[seen:]


def test_it_is_registered_and_exported():
    assert DATA_SAMPLERS.get('PKSampler') is PKSampler is kdmm.datasets.PKSampler
    assert not hasattr(sampler(), 'skip')  # MMEngine would skip past the end of the pass
