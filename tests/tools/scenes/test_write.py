import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from scenes import CLASSES, IGNORE, PALETTE, render, sample_scene, write, write_scenes

ROOT = Path(__file__).parents[3]
SMALL = dict(n_train=3, n_val=2, size=(32, 64), seed=4)


def digest(root):
    files = sorted(file for file in root.rglob('*') if file.is_file())
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_layout_and_contents(tmp_path):
    assert write_scenes(tmp_path / 'scenes', **SMALL)
    for split, count in (('train', 3), ('val', 2)):
        images = sorted((tmp_path / 'scenes/img_dir' / split).iterdir())
        labels = sorted((tmp_path / 'scenes/ann_dir' / split).iterdir())
        assert [file.stem for file in images] == [file.stem for file in labels]
        assert len(images) == count
        assert cv2.imread(str(images[0])).shape == (32, 64, 3)
        values = np.unique(cv2.imread(str(labels[0]), cv2.IMREAD_UNCHANGED))
        assert set(values) <= {*range(len(CLASSES)), IGNORE}


def test_a_picture_depends_on_seed_split_and_number_only(tmp_path):
    write_scenes(tmp_path, **SMALL)
    for split, name in enumerate(('train', 'val')):
        painted = render(sample_scene((4, split, 1), aspect=2.0), (32, 64))
        flags = [cv2.IMWRITE_JPEG_QUALITY, 92]
        jpeg = cv2.imencode('.jpg', painted.image[..., ::-1], flags)[1].tobytes()
        assert (tmp_path / f'img_dir/{name}/00001.jpg').read_bytes() == jpeg
        labels = cv2.imread(str(tmp_path / f'ann_dir/{name}/00001.png'), cv2.IMREAD_UNCHANGED)
        assert (labels == painted.labels).all()


def test_same_seed_same_bytes(tmp_path):
    write_scenes(tmp_path / 'a', **SMALL)
    write_scenes(tmp_path / 'b', **SMALL)
    assert digest(tmp_path / 'a') == digest(tmp_path / 'b')


def test_splits_and_seeds_share_nothing(tmp_path):
    write_scenes(tmp_path / 'a', **SMALL)
    write_scenes(tmp_path / 'b', **{**SMALL, 'seed': 5})
    images = [
        value
        for folder in 'ab'
        for name, value in digest(tmp_path / folder).items()
        if '.jpg' in name
    ]
    assert len(set(images)) == len(images) == 10


def test_a_larger_split_begins_with_the_smaller_one(tmp_path):
    write_scenes(tmp_path / 'a', **SMALL)
    write_scenes(tmp_path / 'b', **{**SMALL, 'n_train': 5})
    few, many = digest(tmp_path / 'a'), digest(tmp_path / 'b')
    grown = {write.SETTINGS_FILE, 'annotations/person_keypoints_train.json'}
    assert all(many[name] == value for name, value in few.items() if name not in grown)


def test_the_same_settings_are_kept_others_refused(tmp_path):
    root = tmp_path / 'scenes'
    assert write_scenes(root, **SMALL)
    before = digest(root)
    assert not write_scenes(root, **SMALL)
    with pytest.raises(FileExistsError, match=r'n_train is 3 and not 4.*another folder'):
        write_scenes(root, **{**SMALL, 'n_train': 4})
    assert digest(root) == before


@pytest.mark.parametrize('gone', [('train', 'val'), ('val',)])
def test_a_folder_without_keypoints_gets_them(tmp_path, gone):
    write_scenes(tmp_path / 'new', **SMALL)
    root = tmp_path / 'old'
    write_scenes(root, **SMALL)
    for split in gone:
        (root / f'annotations/person_keypoints_{split}.json').unlink()
    if len(gone) == 2:
        (root / 'annotations').rmdir()
    kept = {file: file.stat().st_mtime_ns for file in root.rglob('*.*')}
    assert write_scenes(root, **SMALL)
    assert digest(root) == digest(tmp_path / 'new')
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
    assert not write_scenes(root, **SMALL)


def test_keypoints_that_are_interrupted_leave_nothing(tmp_path, monkeypatch):
    write_scenes(tmp_path, **SMALL)
    file = tmp_path / 'annotations/person_keypoints_val.json'
    file.unlink()
    monkeypatch.setattr(Path, 'replace', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_scenes(tmp_path, **SMALL)
    assert [x.name for x in file.parent.iterdir()] == ['person_keypoints_train.json']


def test_something_else_is_not_overwritten(tmp_path):
    (tmp_path / 'mine.txt').write_text('precious')
    with pytest.raises(FileExistsError, match='no generated data set'):
        write_scenes(tmp_path, **SMALL)
    assert [file.name for file in tmp_path.iterdir()] == ['mine.txt']


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / 'scenes').mkdir()
    assert write_scenes(tmp_path / 'scenes', **SMALL)


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, '_write', stop)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / 'scenes', **SMALL)
    assert not list(tmp_path.iterdir())


def test_another_process_may_be_faster(tmp_path, monkeypatch):
    root, publish = tmp_path / 'scenes', write._publish

    def late(draft, target, settings):
        monkeypatch.setattr(write, '_publish', publish)
        write_scenes(root.with_name('other'), **SMALL)
        root.with_name('other').rename(root)
        return publish(draft, target, settings)

    monkeypatch.setattr(write, '_publish', late)
    assert not write_scenes(root, **SMALL)
    assert [file.name for file in tmp_path.iterdir()] == ['scenes']


@pytest.mark.parametrize('wrong', [dict(n_val=0), dict(size=(0, 8)), dict(seed=-1)])
def test_impossible_settings_are_named(tmp_path, wrong):
    with pytest.raises(ValueError, match='got'):
        write_scenes(tmp_path / 'scenes', **{**SMALL, **wrong})


def test_command_line(tmp_path):
    command = [sys.executable, str(ROOT / 'tools/generate_scenes.py'), str(tmp_path / 'scenes')]
    command += ['--train', '1', '--val', '1', '--size', '16', '32']
    here = {**os.environ, 'PYTHONPATH': str(ROOT)}
    for status, extra in ((0, []), (1, ['--seed', '9'])):
        done = subprocess.run([*command, *extra], capture_output=True, text=True, env=here)
        assert done.returncode == status, done.stderr
    assert 'seed is 0 and not 9' in done.stderr
    settings = json.loads((tmp_path / 'scenes/scenes.json').read_text())
    assert (settings['height'], settings['width']) == (16, 32)


def test_scenes_config_agrees_with_the_generator(monkeypatch):
    monkeypatch.delenv('KDMM_QUICKSTART', raising=False)
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/scenes.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert tuple(loader.dataset.metainfo.classes) == CLASSES
        assert list(loader.dataset.metainfo.palette) == PALETTE
        assert loader.dataset.data_root == 'data/quickstart'
