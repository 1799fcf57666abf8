import json
import pickle
import random
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain')

from mmengine.config import Config  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

import kdmm  # noqa: E402, F401
from kdmm.datasets import SeededDataset, StratifiedSubset  # noqa: E402
from kdmm.registry import DATASETS  # noqa: E402
from tests.errors import refused  # noqa: E402

from .labelled import LabelsOnly  # noqa: E402

NAN = float('nan')
CLASSES = ('ape', 'bee', 'cat')
COUNTS = (12, 8, 4)
LABELS = [label for label, count in enumerate(COUNTS) for _ in range(count)]


@DATASETS.register_module(force=True)
class Labelled(LabelsOnly):
    METAINFO = dict(classes=CLASSES)
    LABELS = LABELS


def subset(labels=LABELS, **options) -> StratifiedSubset:
    return StratifiedSubset(dict(type='kdmm.Labelled', labels=labels), **options)


def numbers(data) -> list[int]:
    return [data[i]['number'] for i in range(len(data))]


def counts(data) -> dict[int, int]:
    return dict(Counter(data[i]['gt_label'] for i in range(len(data))))


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (dict(fraction=0.25), {0: 3, 1: 2, 2: 1}),
        (dict(fraction=0.5), {0: 6, 1: 4, 2: 2}),
        (dict(fraction=0.75), {0: 9, 1: 6, 2: 3}),
        (dict(fraction=0.3), {0: 4, 1: 2, 2: 1}),  # 3.6, 2.4, 1.2
        (dict(fraction=0.125), {0: 2, 1: 1, 2: 1}),  # 1.5 and 0.5 go up
        (dict(fraction=0.001), {0: 1, 1: 1, 2: 1}),
        (dict(fraction=1), {0: 12, 1: 8, 2: 4}),
        (dict(per_class=3), {0: 3, 1: 3, 2: 3}),
        (dict(fraction=0.25, rest=True), {0: 9, 1: 6, 2: 3}),
        (dict(per_class=4, rest=True), {0: 8, 1: 4}),
    ],
)
def test_every_class_gives_its_share(options, expected):
    assert counts(subset(**options)) == expected


@pytest.mark.parametrize('seed', [0, 1])
def test_the_rest_is_the_complement(seed):
    drawn = numbers(subset(fraction=0.25, seed=seed))
    rest = numbers(subset(fraction=0.25, seed=seed, rest=True))
    assert not {*drawn} & {*rest} and sorted(drawn + rest) == list(range(24))


def test_the_order_is_the_data_sets():
    assert numbers(subset(fraction=0.5)) == sorted(numbers(subset(fraction=0.5)))


def test_a_share_is_drawn_not_cut_off():
    drawn = numbers(subset(fraction=0.5))
    assert drawn[:6] != list(range(6)) and drawn[:6] != list(range(6, 12))
    same_sized = subset(labels=[0] * 8 + [1] * 8, fraction=0.5)
    first, second = numbers(same_sized)[:4], numbers(same_sized)[4:]
    assert first != [n - 8 for n in second]  # classes are drawn independently


def test_this_is_what_seed_0_draws():
    """So that a report's subset can be had again, whatever the versions."""
    assert numbers(subset(fraction=0.25)) == [0, 4, 11, 12, 17, 23]


def test_seeds_differ():
    assert len({tuple(numbers(subset(fraction=0.5, seed=seed))) for seed in range(5)}) == 5


def test_a_larger_share_holds_the_smaller():
    quarter, half, most = (set(numbers(subset(fraction=f))) for f in (0.25, 0.5, 0.75))
    assert quarter < half < most
    assert set(numbers(subset(per_class=2))) < set(numbers(subset(per_class=4)))


def test_what_one_class_has_does_not_move_the_others():
    fewer = subset(labels=LABELS[4:], fraction=0.5)
    assert [n + 4 for n in numbers(fewer)[4:]] == numbers(subset(fraction=0.5))[6:]


def test_the_process_random_state_is_neither_read_nor_moved():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)
    drawn = []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        drawn.append(numbers(subset(fraction=0.5)))
        if seed == 1:
            assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert drawn[0] == drawn[1]


def test_another_process_draws_the_same():
    """As other ranks do; hashes of strings are seeded anew in each process."""
    code = (
        'import json; from tests.datasets.test_stratified import numbers, subset;'
        'print(json.dumps(numbers(subset(fraction=0.5))))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout.splitlines()[-1]) == numbers(subset(fraction=0.5))


def test_annotations_and_classes_are_those_of_the_items():
    data = subset(fraction=0.25)
    for index in range(len(data)):
        assert data.get_data_info(index)['number'] == data[index]['number']
        assert data.get_cat_ids(index) == [data[index]['gt_label']]
        assert type(data.get_cat_ids(index)[0]) is int
    with pytest.raises(IndexError):
        data[len(data)]


def test_metainfo_is_the_data_sets():
    data = subset(fraction=0.5)
    assert data.metainfo == dict(classes=CLASSES)
    data.metainfo['classes'] = ()
    assert data.metainfo == dict(classes=CLASSES)


def test_lazy_loads_on_first_use():
    config = dict(type='kdmm.Labelled', lazy_init=True)
    data = StratifiedSubset(config, fraction=0.25, lazy_init=True)
    assert data.metainfo['classes'] == CLASSES
    assert not data._fully_initialized and not data.dataset._fully_initialized
    for use in (len, lambda d: d[0], lambda d: d.get_data_info(0), lambda d: d.get_cat_ids(0)):
        fresh = StratifiedSubset(config, fraction=0.25, lazy_init=True)
        use(fresh)
        assert fresh._fully_initialized and fresh.dataset._fully_initialized
    assert numbers(data) == numbers(subset(fraction=0.25))


def test_a_lazy_data_set_is_loaded_by_the_wrapper():
    class Empty:
        """Until it is loaded; a data set of MMEngine would load itself."""

        metainfo: dict = {}
        labels: tuple = ()

        def full_init(self) -> None:
            self.labels = (0, 0, 1, 1)

        def __len__(self) -> int:
            return len(self.labels)

        def get_data_info(self, idx):
            return dict(gt_label=self.labels[idx])

    assert len(StratifiedSubset(Empty(), fraction=0.5)) == 2


def test_loads_once(monkeypatch):
    data = subset(fraction=0.25)
    monkeypatch.setattr(Labelled, 'get_data_info', lambda self, idx: 1 / 0)
    data.full_init()


def test_a_data_set_given_as_an_object():
    given = Labelled()
    data = StratifiedSubset(given, fraction=0.25)
    assert data.dataset is given and numbers(data) == numbers(subset(fraction=0.25))


def test_it_survives_pickling():
    data = pickle.loads(pickle.dumps(subset(fraction=0.25)))
    assert numbers(data) == numbers(subset(fraction=0.25))


@pytest.mark.parametrize(
    ('options', 'key', 'told'),
    [
        (dict(), '', dict(got=dict(fraction=None, per_class=None), expected='either')),
        (dict(fraction=0.5, per_class=2), '', dict(got=dict(fraction=0.5, per_class=2))),
        (dict(fraction=0), '.fraction', dict(got=0, expected='(0, 1]')),
        (dict(fraction=1.5), '.fraction', dict(got=1.5)),
        (dict(fraction=-0.5), '.fraction', dict(got=-0.5)),
        (dict(fraction=NAN), '.fraction', dict(got=NAN)),
        (dict(fraction='half'), '.fraction', dict(got='half')),
        (dict(per_class=0), '.per_class', dict(got=0, expected='from 1 on')),
        (dict(per_class=2.5), '.per_class', dict(got=2.5)),
        (dict(per_class=5), '.per_class', dict(got=5, problem="4 image(s) of class 'cat'")),
        (dict(fraction=0.5, seed=None), '.seed', dict(got=None, expected='from 0 on')),
        (dict(fraction=0.5, seed=-1), '.seed', dict(got=-1)),
        (dict(fraction=1, rest=True), '', dict(problem='none is left')),
    ],
)
def test_wrong_arguments_are_refused(options, key, told):
    with refused(key=f'StratifiedSubset{key}', **told):
        subset(**options)


def test_arguments_are_checked_before_anything_is_loaded():
    with refused(key='StratifiedSubset.fraction', got=2):
        StratifiedSubset(dict(type='kdmm.NoSuchDataset'), fraction=2, lazy_init=True)


def test_a_class_without_images():
    """Has no share, and too few for a number of images."""
    assert counts(subset(labels=[0] * 4 + [2] * 4, fraction=0.5)) == {0: 2, 2: 2}
    with refused(key='StratifiedSubset.per_class', problem="0 image(s) of class 'bee'"):
        subset(labels=[0] * 4 + [2] * 4, per_class=1)


@pytest.mark.parametrize('label', [None, [1, 2], -1, 'ape'])
def test_images_without_one_label_are_refused(label):
    with refused(key='StratifiedSubset.dataset', got=label, problem='image 2 of Labelled'):
        subset(labels=[0, 1, label], fraction=0.5)


def test_labels_beyond_the_names():
    with refused(key='StratifiedSubset.per_class', got=2, problem='1 image(s) of class 7'):
        subset(labels=[0, 0, 1, 1, 2, 2, 7], per_class=2)


# around the data sets of MMPretrain


@pytest.fixture
def folder(tmp_path):
    """One-colour images of ten in a class."""
    for label, name in enumerate(CLASSES):
        (tmp_path / 'train' / name).mkdir(parents=True)
        for index in range(8):
            picture = np.full((8, 8, 3), 80 * label, np.uint8)
            cv2.imwrite(str(tmp_path / 'train' / name / f'{index}.png'), picture)
    return tmp_path


def custom(root, **options):
    pipeline = [
        dict(type='mmpretrain.LoadImageFromFile'),
        dict(type='mmpretrain.PackInputs'),
    ]
    return dict(
        type='mmpretrain.CustomDataset', data_root=str(root), data_prefix='train',
        pipeline=pipeline, **options,
    )  # fmt: skip


def test_around_a_folder_of_images(folder):
    data = StratifiedSubset(custom(folder), fraction=0.25)
    assert data.metainfo['classes'] == CLASSES and len(data) == 6
    for index in range(6):
        sample = data[index]
        assert [sample['data_samples'].gt_label.item()] == data.get_cat_ids(index)
        assert sample['inputs'].unique().tolist() == [80 * data.get_cat_ids(index)[0]]


def test_classes_that_are_known_only_after_loading(folder):
    data = StratifiedSubset(custom(folder, lazy_init=True), fraction=0.25, lazy_init=True)
    assert data.metainfo.get('classes') is None
    data.full_init()
    assert data.metainfo['classes'] == CLASSES


def test_unlabelled_images_of_a_folder(folder):
    with refused(key='StratifiedSubset.dataset', got=None, problem='gt_label'):
        StratifiedSubset(custom(folder, with_label=False), fraction=0.25)


def test_around_cifar100(tmp_path, monkeypatch):
    """Its images lie in the annotations; a small archive in its format."""
    from mmpretrain.datasets import CIFAR100

    (tmp_path / 'cifar-100-python').mkdir()
    random_images = np.random.default_rng(0).integers(0, 256, (40, 3072), dtype=np.uint8)
    for name in ('train', 'test'):
        content = dict(data=random_images, fine_labels=[i % 4 for i in range(40)])
        (tmp_path / 'cifar-100-python' / name).write_bytes(pickle.dumps(content))
    monkeypatch.setattr(CIFAR100, 'train_list', [['train', None]])
    monkeypatch.setattr(CIFAR100, 'test_list', [['test', None]])
    config = dict(type='mmpretrain.CIFAR100', data_root=str(tmp_path), download=False)
    data = StratifiedSubset(config, per_class=3, lazy_init=True)
    with refused(key='StratifiedSubset.per_class', problem="0 image(s) of class 'beaver'"):
        data.full_init()
    data = StratifiedSubset(config, fraction=0.5)
    assert Counter(data.get_cat_ids(i)[0] for i in range(20)) == {0: 5, 1: 5, 2: 5, 3: 5}
    first = data._indices[0]
    assert (data[0]['img'].transpose(2, 0, 1).ravel() == random_images[first]).all()


def test_around_imagenet(folder):
    config = dict(type='mmpretrain.ImageNet', data_root=str(folder), split='train', classes=CLASSES)
    data = StratifiedSubset(config, fraction=0.5, rest=True)
    assert len(data) == 12 and data.metainfo['classes'] == CLASSES


def test_around_and_inside_other_wrappers(folder):
    """Of MMEngine, whose concatenations know no ``get_cat_ids``, and of kdmm."""
    twice = dict(type='ConcatDataset', datasets=[custom(folder), custom(folder)])
    assert Counter(
        label for i in range(12) for label in StratifiedSubset(twice, fraction=0.25).get_cat_ids(i)
    ) == {0: 4, 1: 4, 2: 4}
    config = dict(type='kdmm.StratifiedSubset', dataset=custom(folder), fraction=0.25)
    seeded = SeededDataset(config)
    seeded.full_init()
    assert len(seeded) == 6 and seeded.metainfo['classes'] == CLASSES
    assert seeded[0]['inputs'].shape == (3, 8, 8)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_runner_builds_its_loader(folder, workers):
    """Named ``kdmm.StratifiedSubset`` from MMPretrain's scope."""
    from mmengine.registry import init_default_scope

    init_default_scope('mmpretrain')
    dataset = custom(folder)
    dataset['type'] = 'CustomDataset'
    loader = Config(
        dict(
            batch_size=2,
            num_workers=workers,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(type='kdmm.StratifiedSubset', dataset=dataset, fraction=0.25, seed=3),
        )
    )
    batches = list(Runner.build_dataloader(loader._cfg_dict, seed=0))
    labels = [s.gt_label.item() for batch in batches for s in batch['data_samples']]
    assert len(batches) == 3 and sorted(labels) == [0, 0, 1, 1, 2, 2]


def test_it_is_registered_and_exported():
    assert DATASETS.get('StratifiedSubset') is StratifiedSubset is kdmm.datasets.StratifiedSubset
