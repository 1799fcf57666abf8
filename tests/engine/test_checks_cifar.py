import hashlib

import pytest
from mmengine.config import Config

pytest.importorskip('mmpretrain')

from mmpretrain import datasets  # noqa: E402

from kdmm.engine import check_data  # noqa: E402
from tests.errors import refused  # noqa: E402

FILES = dict(
    CIFAR10=('cifar-10-batches-py', 'cifar-10-python.tar.gz',
             [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'], 'batches.meta'),
    CIFAR100=('cifar-100-python', 'cifar-100-python.tar.gz', ['train', 'test'], 'meta'),
)  # fmt: skip


@pytest.fixture(params=FILES)
def kind(request, monkeypatch):
    """With the MD5 of files that hold their own name."""
    cls = getattr(datasets, request.param)
    for key in ('train_list', 'test_list'):
        own = [[name, hashlib.md5(name.encode()).hexdigest()] for name, _ in getattr(cls, key)]
        monkeypatch.setattr(cls, key, own)
    return request.param


def unpack(root, kind: str) -> None:
    folder, _, names, meta = FILES[kind]
    (root / folder).mkdir(parents=True)
    for name in (*names, meta):
        (root / folder / name).write_text(name)


def check(kind: str, root, wrap=lambda dataset: dataset, **changes) -> None:
    dataset = dict(type=kind, data_root=str(root), split='train', **changes)
    check_data(Config(dict(train_dataloader=dict(dataset=wrap(dataset)))), ('train',))


def test_the_unpacked_archive_passes(tmp_path, kind):
    unpack(tmp_path, kind)
    check(kind, tmp_path)
    check(f'mmpretrain.{kind}', tmp_path, download=False)
    check(kind, '', data_prefix=str(tmp_path))


@pytest.mark.parametrize('changes', [{}, dict(download=False), dict(download=None)])
def test_a_missing_folder_is_told_before_anything_is_fetched(tmp_path, kind, changes):
    folder, archive, names, meta = FILES[kind]
    with refused(
        key='train_dataloader.dataset.data_root',
        got=str(tmp_path / 'none'),
        problem=f'there is no {folder}/{names[0]}, {folder}/{names[1]}',
        fix=(
            f'official archive {archive} there',
            f'{folder}/{{{",".join([*names, meta])}}}',
            '--cfg-options train_dataloader.dataset.data_root=...',
            'train_dataloader.dataset.download=True',
        ),
    ):
        check(kind, tmp_path / 'none', **changes)


def test_one_file_is_missing(tmp_path, kind):
    unpack(tmp_path, kind)
    folder, _, names, _ = FILES[kind]
    (tmp_path / folder / names[-1]).unlink()
    with refused(problem=f'there is no {folder}/{names[-1]}') as caught:
        check(kind, tmp_path)
    assert caught.value.problem.endswith(names[-1])


def test_a_damaged_file(tmp_path, kind):
    unpack(tmp_path, kind)
    folder, _, names, _ = FILES[kind]
    (tmp_path / folder / names[0]).write_text('half')
    with refused(problem=f'damaged or changed is {folder}/{names[0]}') as caught:
        check(kind, tmp_path)
    assert caught.value.problem.endswith(names[0])


def test_a_folder_a_level_too_low(tmp_path, kind):
    unpack(tmp_path, kind)
    folder = tmp_path / FILES[kind][0]
    with refused(key='train_dataloader.dataset.data_root', got=str(folder)):
        check(kind, folder)


def test_every_spelling_of_the_type_is_known(tmp_path, kind):
    for spelling in (kind, f'mmpretrain.{kind}', getattr(datasets, kind)):
        with refused(fix='official archive'):
            check(spelling, tmp_path)


def test_below_a_wrapper(tmp_path, kind):
    def wrap(dataset):
        return dict(type='kdmm.StratifiedSubset', fraction=0.5, dataset=dataset)

    with refused(key='train_dataloader.dataset.dataset.data_root', got=str(tmp_path)):
        check(kind, tmp_path, wrap)


def test_a_prefix_in_place_of_a_root(tmp_path, kind):
    key = 'train_dataloader.dataset.data_prefix'
    with refused(key=key, got=str(tmp_path), fix=f'--cfg-options {key}=...'):
        check(kind, '', data_prefix=str(tmp_path))


def test_what_is_asked_for_or_not_local_passes(tmp_path, kind):
    check(kind, tmp_path / 'none', download=True)
    check(kind, 's3://bucket/cifar')


def test_other_data_sets_are_not_asked_for_an_archive(tmp_path):
    check('MNIST', tmp_path)
