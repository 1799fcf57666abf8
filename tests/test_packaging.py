"""The wheel, the source distribution and the editable install."""

import os
import shutil
import subprocess
import sys
import tarfile
from configparser import ConfigParser
from email import message_from_string
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import pytest

import kdmm

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    'pyproject.toml', 'setup.py', 'MANIFEST.in', 'LICENSE', 'README.md', 'CHANGELOG.md',
    'requirements.txt', 'model-index.yml', 'CONTRIBUTING.md', 'CITATION.cff',
    '.pre-commit-config.yaml',
)  # fmt: skip
FOLDERS = ('kdmm', 'benchmarks', 'configs', 'docs', 'tools', '.github')
BUILD = (
    'import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])'
)
#: Hides libraries from the process that imports it, as if they were not installed.
ALONE = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec


def find_others(name, path=None, target=None):
    return None if name.partition('.')[0] in {hidden!r} else find(name, path, target)


PathFinder.find_spec = find_others
"""
CONFIG = """
default_scope = 'mmseg'
norm = dict(type='BN')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', size=(32, 32)),
    backbone=dict(type='ResNet', depth=18, norm_cfg=norm),
    decode_head=dict(type='FCNHead', in_channels=512, channels=8, num_classes=2, norm_cfg=norm),
)
train_dataloader = dict(
    batch_size=2,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(
        type='BaseSegDataset',
        metainfo=dict(classes=('a', 'b')),
        data_prefix=dict(img_path='data', seg_map_path='data'),
        img_suffix='.jpg',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    ),
)
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2))
"""


def python(*arguments: object, cwd: Path, **environment: str) -> str:
    """Standard output of a fresh interpreter, with its errors."""
    env = {key: value for key, value in os.environ.items() if not key.startswith('PYTHON')}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, env=env | environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope='module')
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git keeps, in a folder called ``kdmm``."""
    copy = tmp_path_factory.mktemp('parent') / 'kdmm'
    copy.mkdir()
    skip = shutil.ignore_patterns('__pycache__')
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=skip)
    for name in FILES:
        shutil.copy2(ROOT / name, copy)
    (copy / 'tests').mkdir()
    return copy


@pytest.fixture(scope='module')
def site(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, as pip lays them out."""
    folder = tmp_path_factory.mktemp('site')
    python('-c', BUILD, 'build_wheel', folder, cwd=checkout)
    (wheel,) = folder.glob('*.whl')
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
    return folder


def test_the_metadata(site: Path) -> None:
    (info,) = site.glob('kdmm-*.dist-info')
    metadata = message_from_string((info / 'METADATA').read_text())
    assert metadata['Version'] == kdmm.__version__
    assert metadata['License-Expression'] == 'Apache-2.0'
    assert (info / 'licenses' / 'LICENSE').is_file()
    scripts = ConfigParser()
    scripts.read(info / 'entry_points.txt')
    assert dict(scripts['console_scripts']) == {'kdmm': 'kdmm.__main__:main'}


def test_the_wheel_carries_what_runs_without_a_checkout(site: Path) -> None:
    mim = site / 'kdmm' / '.mim'
    listed = (mim / 'model-index.yml').read_text().split('\n- ')[1:]
    assert listed and all((mim / name.strip()).is_file() for name in listed)
    tools = {file.name for file in (mim / 'tools').iterdir()}
    assert {'train.py', 'test.py', 'dist_train.sh', 'slurm_test.sh', 'common.sh'} <= tools
    for name in sorted(tools):
        text = (mim / 'tools' / name).read_text()
        others = {other.name for other in (ROOT / 'tools').iterdir()} - tools - {'__pycache__'}
        assert not [other for other in others if f'tools/{other}' in text], name
    assert not {'setup.sh', 'run_tests.sh', 'quickstart.sh', 'compare.py'} & tools
    assert not {'benchmarks', 'tests', 'tools', 'docs'} & {file.name for file in site.iterdir()}


def test_type_checkers_read_the_installed_package(site: Path, tmp_path: Path) -> None:
    pytest.importorskip('mypy')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'env'], check=True)
    (packages,) = (tmp_path / 'env' / 'lib').glob('*/site-packages')
    (packages / 'wheel.pth').write_text(f'{site}\n')
    (tmp_path / 'own.py').write_text(
        "from kdmm.errors import nearest\n\nfound: int = nearest('a', ['b'])\n"
    )
    done = subprocess.run(
        [sys.executable, '-m', 'mypy', '--python-executable', tmp_path / 'env' / 'bin' / 'python',
         '--cache-dir', os.devnull, 'own.py'],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert 'expression has type "str"' in done.stdout, done.stdout


def test_the_source_distribution_is_complete(checkout: Path, tmp_path: Path) -> None:
    python('-c', BUILD, 'build_sdist', tmp_path, cwd=checkout)
    (archive,) = tmp_path.glob('*.tar.gz')
    with tarfile.open(archive) as packed:
        names = {name.partition('/')[2] for name in packed.getnames()}
    folders = {'benchmarks/naive.py', 'docs/guide.md', 'docs/rooms.svg', 'tools/setup.sh'}
    folders |= {'.github/workflows/ci.yml'}
    assert {*FILES, *folders, 'configs/cirkd/metafile.yml'} <= names
    assert 'kdmm/py.typed' in names and not [name for name in names if name.endswith('.pyc')]


def test_an_editable_install_wins_over_the_folder_of_its_name(
    checkout: Path, tmp_path: Path
) -> None:
    python('-c', BUILD, 'build_editable', tmp_path, cwd=checkout)
    (wheel,) = tmp_path.glob('*.whl')
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / 'site')
    code = (
        'import site, sys; site.addsitedir(sys.argv[1]); from importlib.util import find_spec;'
        "print(find_spec('kdmm').origin)"
    )
    for cwd in (checkout.parent, checkout, tmp_path):
        found = python('-S', '-c', code, tmp_path / 'site', cwd=cwd)
        assert found.strip() == str(checkout / 'kdmm' / '__init__.py'), cwd


@pytest.mark.slow
def test_a_wheel_and_one_base_library_are_enough(site: Path, tmp_path: Path) -> None:
    """Train, convert and inherit a config, where mmdet, mmpose and mmpretrain are not installed."""
    pytest.importorskip('mmseg')
    hidden = ('mmdet', 'mmpose', 'mmpretrain', 'timm', 'xtcocotools')
    (tmp_path / 'alone.py').write_text(ALONE.format(hidden=hidden))
    (tmp_path / 'own.py').write_text(CONFIG)
    (tmp_path / 'data').mkdir()
    for index in range(2):
        image = np.full((32, 32, 3), 50 * index, np.uint8)
        cv2.imwrite(str(tmp_path / 'data' / f'{index}.jpg'), image)
        cv2.imwrite(str(tmp_path / 'data' / f'{index}.png'), image[..., 0] // 50)
    code = """
import alone
from kdmm.__main__ import main
main(['train', 'own.py', '--work-dir', 'work'])
main(['convert', 'work/iter_2.pth', '--to', 'torchvision', '--out', 'r18.pth'])
import kdmm
print(kdmm.__file__)
from kdmm.engine import load_config
print('kd' in load_config('kdmm::cirkd/deeplab_r101_r18_camvid.py'))
try:
    load_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
except ValueError as error:
    print(error)
"""
    path = os.pathsep.join([str(site), str(tmp_path)])
    told = python('-c', code, cwd=tmp_path, PYTHONPATH=path, OMP_NUM_THREADS='1').splitlines()
    assert (tmp_path / 'work' / 'iter_2.pth').is_file() and (tmp_path / 'r18.pth').is_file()
    assert str(site / 'kdmm' / '__init__.py') in told and 'True' in told
    assert any('is not installed: pip install onedl-mmdetection' in line for line in told)
