"""Label maps of another size, depth or number of channels are refused where they are read."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import RepeatDataset
from mmengine.registry import init_default_scope
from PIL import Image

pytest.importorskip('mmseg')

from mmseg.datasets import BaseSegDataset  # noqa: E402

from kdmm.datasets.label_maps import LabelMapCheck, add_label_map_checks  # noqa: E402
from kdmm.datasets.label_survey import survey_labels, survey_warning  # noqa: E402
from kdmm.engine import Runner  # noqa: E402
from kdmm.errors import ConfigError  # noqa: E402
from tests.errors import refused  # noqa: E402

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=(16, 16)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
TEST = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(48, 48), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]


@pytest.fixture(autouse=True)
def scope() -> None:
    init_default_scope('mmseg')


def data(
    folder: Path, *maps: np.ndarray, pipeline: Any = PIPELINE, classes: Any = 'abc', **more: Any
) -> BaseSegDataset:
    """An image of 32x24 for each label map."""
    for number, labels in enumerate(maps):
        image = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{number}.jpg'), image)
        Image.fromarray(labels).save(folder / f'{number}.png')
    return BaseSegDataset(
        data_prefix=dict(img_path=str(folder), seg_map_path=str(folder)), img_suffix='.jpg',
        metainfo=dict(classes=tuple(classes)), pipeline=pipeline, **more,
    )  # fmt: skip


def labels(*values: int, size: tuple[int, int] = (24, 32), dtype: Any = np.uint8) -> np.ndarray:
    """(H, W) with a row of each value."""
    made = np.zeros(size, dtype)
    for row, value in enumerate(values):
        made[row] = value
    return made


def path_of(dataset, index):
    return dataset.get_data_info(index)['seg_map_path']


@pytest.mark.parametrize('pipeline', [PIPELINE, TEST])
@pytest.mark.parametrize('size', [(48, 64), (24, 31), (32, 24)])
def test_another_size_than_the_image(tmp_path, pipeline, size):
    made = data(tmp_path, labels(size=size), pipeline=pipeline)
    add_label_map_checks(made)
    expected = dict(key=path_of(made, 0), problem=(f'{size[1]}x{size[0]}', '32x24'))
    with refused(**expected):
        made[0]
    with refused(**expected):  # before training, too
        survey_labels(made)


@pytest.mark.parametrize('value', [256, 258, 700, 65534])
def test_a_label_of_more_than_eight_bits_is_named(tmp_path, value):
    """258 would be the class 2."""
    made = data(tmp_path, labels(0, 1, value, dtype=np.uint16))
    add_label_map_checks(made)
    expected = dict(key=path_of(made, 0), problem=(f'label {value} ', f'make {value % 256} of it'))
    with refused(**expected):
        made[0]
    with refused(**expected):
        survey_labels(made)


def test_sixteen_bits_of_small_labels_and_void_pass(tmp_path):
    made = data(tmp_path, labels(0, 1, 2, 65535, dtype=np.uint16))
    add_label_map_checks(made)
    made[0]
    assert set(survey_labels(made).seen) == {0, 1, 2, 255}


def test_colours_in_place_of_numbers(tmp_path):
    made = data(tmp_path, np.zeros((24, 32, 3), np.uint8))
    add_label_map_checks(made)
    with refused(key=path_of(made, 0), problem='3 channels', expected='one'):
        made[0]


@pytest.mark.parametrize('pipeline', [PIPELINE, TEST])
def test_samples_are_what_they_were_to_the_bit(tmp_path, pipeline):
    made = data(tmp_path, labels(0, 1, 2), labels(2, 255), pipeline=pipeline)

    def drawn() -> list[Any]:
        np.random.seed(3)
        return [made[i] for i in (0, 1, 0, 1)]

    before = drawn()
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    add_label_map_checks(made)
    add_label_map_checks(made)  # once is enough
    assert sum(isinstance(t, LabelMapCheck) for t in made.pipeline.transforms) == 1
    assert survey_labels(made).sampled == 2
    assert (np.random.get_state()[1] == state[0]).all()
    assert torch.equal(torch.get_rng_state(), state[1])
    for first, second in zip(before, drawn(), strict=True):
        assert torch.equal(first['inputs'], second['inputs'])
        assert torch.equal(*(s['data_samples'].gt_sem_seg.data for s in (first, second)))


@pytest.mark.parametrize('workers', [0, 1])
def test_the_runners_loaders_refuse_too(tmp_path, workers):
    """Whatever wraps the data set, and in the workers."""
    made = data(tmp_path, labels(0), labels(size=(48, 64)))
    loader = Runner.build_dataloader(
        dict(
            batch_size=1,
            num_workers=workers,
            dataset=RepeatDataset(made, 1),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        )
    )
    # what DataLoader raises again in the process of the loader is a text, without fields
    with pytest.raises(ConfigError, match=r'1\.png: the label map has 64x48'):
        list(loader)


# what is said before training


def test_zero_and_255_for_two_classes(tmp_path):
    made = data(tmp_path, labels(0, 255), labels(0, 255), classes=('road', 'crack'))
    said = survey_warning(survey_labels(made), 'train_dataloader')
    assert said.startswith('train_dataloader: 1 of 2 classes occur in none of the 2 label maps')
    assert '1 (crack)' in said and '0 and 255 alone' in said and 'write it as 1' in said


def test_a_class_that_never_occurs_is_named(tmp_path):
    said = survey_warning(survey_labels(data(tmp_path, labels(0, 2), labels(2))), 'x')
    assert 'x: 1 of 3 classes' in said and ': 1 (b)' in said and '255' not in said
    assert survey_warning(survey_labels(data(tmp_path, labels(0, 2), labels(1))), 'x') == ''


def test_labels_are_read_as_the_pipeline_reads_them(tmp_path):
    made = data(tmp_path, labels(0, 1, 2, 3), reduce_zero_label=True)
    assert set(survey_labels(made).seen) == {0, 1, 2, 255}


def test_at_most_so_many_and_so_long(tmp_path, monkeypatch):
    made = data(tmp_path, *[labels(0)] * 9)
    monkeypatch.setattr('kdmm.datasets.label_survey.MAPS', 4)
    survey = survey_labels(made)
    assert (survey.sampled, survey.total) == (4, 9)
    monkeypatch.setattr('kdmm.datasets.label_survey.SECONDS', -1.0)
    assert survey_labels(made).sampled == 1
