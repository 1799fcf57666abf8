"""Pictures that cannot be read are named, from data loader workers too."""

import copy
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import BaseDataset

from kdmm.datasets.reading import fault_of, name_files_in_errors
from kdmm.errors import ConfigError
from tests.errors import refused


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), np.full((4, 5, 3), 7, np.uint8))
    return path


def dataset(*paths: Path, step: Any = None) -> BaseDataset:
    made = BaseDataset(serialize_data=False, lazy_init=True, pipeline=[])
    made.data_list = [dict(img_path=str(path)) for path in paths]
    made._fully_initialized = True
    made.pipeline.transforms = [step or LoadImageFromFile()]
    name_files_in_errors(SimpleNamespace(datasets=[made]))  # in a concatenation
    return made


def test_a_good_picture_is_read_as_before(picture):
    for made in (dataset(picture), copy.deepcopy(dataset(picture))):
        assert made[0]['img'].shape == (4, 5, 3) and (made[0]['img'] == 7).all()
    step = pickle.loads(pickle.dumps(dataset(picture).pipeline.transforms[0]))  # to a worker
    assert step(dict(img_path=str(picture)))['img'].shape == (4, 5, 3)
    assert isinstance(step, LoadImageFromFile)


@pytest.mark.parametrize(
    ('content', 'told'),
    [(b'', 'the file is empty'), (b'no picture', 'damaged or no picture'), (None, 'no such file')],
)
def test_a_bad_one_is_named(picture, content, told):
    picture.unlink() if content is None else picture.write_bytes(content)
    with refused(key=str(picture), problem=told, fix='Restore the file'):
        dataset(picture)[0]


def test_a_cut_off_picture(picture):
    picture.write_bytes(picture.read_bytes()[:40])
    assert 'damaged' in fault_of(str(picture))
    assert fault_of('s3://bucket/a.png') == '' and fault_of(None) == ''


class LoadBug(LoadImageFromFile):
    def transform(self, results: dict) -> dict:
        raise KeyError('a bug')


def test_a_bug_is_no_bad_picture(picture):
    """Of somebody's own transform, and of the libraries' where the file can be read."""
    with pytest.raises(KeyError, match='a bug'):
        dataset(picture, step=LoadBug())[0]
    picture.write_bytes(b'')
    with pytest.raises(KeyError, match='a bug'):  # not of the libraries: nothing is changed
        dataset(picture, step=LoadBug())[0]


def test_a_failure_that_is_not_the_files(picture):
    step = LoadImageFromFile(imdecode_backend='cv2')
    step.color_type = 'no such type'
    with pytest.raises(Exception) as raised:
        dataset(picture, step=step)[0]
    assert not isinstance(raised.value, ConfigError)
