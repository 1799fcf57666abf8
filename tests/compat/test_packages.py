import os
import shutil
import subprocess
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from kdmm.compat import packages, setup
from kdmm.compat.packages import (
    config_file,
    config_root,
    register_packages,
    require,
    require_scopes,
)
from tests.errors import refused

setup()
ROOT = Path(__file__).resolve().parents[2]
R18 = 'mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py'
needs_mmseg = pytest.mark.skipif(find_spec('mmseg') is None, reason='mmseg is not installed')


def fake_checkout(folder: Path) -> None:
    """A ``_base_`` file of kdmm, in the place where kdmm's configs are in this environment."""
    (folder / '_base_').mkdir(parents=True)
    (folder / '_base_' / 'method.py').write_text("kd = dict(losses=dict(a=dict(type='KDLoss')))\n")


def run_python(code: str, *arguments: str, path: Path, cwd: Path) -> list[str]:
    """Lines that a fresh interpreter prints, with ``path`` in front of the installed packages."""
    done = subprocess.run(
        [sys.executable, '-c', code, *arguments],
        env=dict(os.environ, PYTHONPATH=str(path)),
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs_mmseg
def test_a_config_inherits_from_mmseg(tmp_path):
    file = tmp_path / 'own.py'
    file.write_text(f"_base_ = ['{R18}']\nmodel = dict(decode_head=dict(num_classes=7))\n")
    model = Config.fromfile(file).model
    assert (model.backbone.depth, model.decode_head.num_classes) == (18, 7)


def test_a_config_inherits_from_kdmm_in_a_checkout(tmp_path, monkeypatch):
    fake_checkout(tmp_path / 'configs')
    monkeypatch.setattr(packages, 'config_root', lambda package: tmp_path)
    monkeypatch.setattr(Config, '_get_cfg_path', Config._get_cfg_path)  # restored afterwards
    register_packages()
    project = tmp_path / 'project' / 'own.py'
    project.parent.mkdir()
    project.write_text("_base_ = ['kdmm::_base_/method.py']\n")
    assert Config.fromfile(project).kd.losses.a.type == 'KDLoss'
    project.write_text("_base_ = ['kdmm::_base_/methods.py']\n")
    with pytest.raises(FileNotFoundError, match=r'nearest: _base_/method\.py'):
        Config.fromfile(project)


def test_the_checkout_is_found_without_installation():
    assert config_root('kdmm') in (ROOT, Path(find_spec('kdmm').origin).parent / '.mim')
    assert MODULE2PACKAGE['kdmm'] == 'kdmm'


def test_upstream_names_stay(monkeypatch):
    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmsegmentation')
    monkeypatch.setattr(packages, 'version', lambda name: '1.2.2')
    register_packages()
    assert MODULE2PACKAGE['mmseg'] == 'mmsegmentation'


def test_no_entry_without_mmseg(monkeypatch):
    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmsegmentation')
    real = find_spec
    monkeypatch.setattr(packages, 'find_spec', lambda name: None if name == 'mmseg' else real(name))
    register_packages()
    assert MODULE2PACKAGE['mmseg'] == 'mmsegmentation'


def test_registering_twice_changes_nothing():
    before = dict(MODULE2PACKAGE), Config._get_cfg_path
    register_packages()
    assert (dict(MODULE2PACKAGE), Config._get_cfg_path) == before


def test_setup_imports_no_task_library(tmp_path):
    alone = tmp_path / 'kdmm'  # compat without the rooms above it
    shutil.copytree(ROOT / 'kdmm' / 'compat', alone / 'compat')
    shutil.copy2(ROOT / 'kdmm' / 'errors.py', alone)
    (alone / '__init__.py').write_text('')
    (tmp_path / 'configs').mkdir()
    code = (
        'import sys, kdmm.compat; kdmm.compat.setup()\n'
        "heavy = ('mmcv', 'mmseg', 'mmdet', 'mmpose', 'mmpretrain', 'torchvision')\n"
        'print([name for name in heavy if name in sys.modules])'
    )
    assert run_python(code, path=tmp_path, cwd=tmp_path) == ['[]']


@pytest.mark.parametrize('config', ['own.py', '::own.py', 'mmseg::', 'mmseg::a::b.py', '/x/own.py'])
def test_config_file_refuses_other_forms(config):
    with pytest.raises(ValueError, match='<package>::<path>'):
        config_file(config)


def test_the_model_index_lists_every_metafile():
    files = {f.relative_to(ROOT).as_posix() for f in (ROOT / 'configs').rglob('metafile.yml')}
    lines = (ROOT / 'model-index.yml').read_text().splitlines()
    assert {line[2:] for line in lines if line.startswith('- ')} == files


@pytest.fixture
def without(monkeypatch):
    """Hides modules as if they were not installed."""

    def hide(*names: str) -> None:
        find = PathFinder.find_spec

        def find_others(name: str, path=None, target=None):
            return None if name.partition('.')[0] in names else find(name, path, target)

        monkeypatch.setattr(PathFinder, 'find_spec', find_others)
        for module in [m for m in sys.modules if m.partition('.')[0] in names]:
            monkeypatch.delitem(sys.modules, module)

    return hide


@pytest.mark.parametrize(
    'hidden, cfg, key, told',
    [
        (
            'mmdet',
            dict(default_scope='mmdet'),
            "default_scope='mmdet'",
            'install onedl-mmdetection',
        ),
        ('mmdet', dict(model=dict(type='mmdet.SSD')), "type='mmdet.SSD'", 'called mmdet)'),
        ('mmseg', dict(a=[dict(b=(dict(type='mmseg.X'),))]), "type='mmseg.X'", 'mmsegmentation)'),
        ('mmpose', dict(default_scope='mmpose'), "default_scope='mmpose'", '--no-deps mmpose'),
        ('mmcv', dict(default_scope='mmseg'), "default_scope='mmseg'", 'mmcv is not installed'),
    ],
)
def test_a_config_is_refused_for_the_library_that_is_missing(without, hidden, cfg, key, told):
    without(hidden)
    problem = f'{hidden} is not installed: pip install', told
    for given in (cfg, Config(cfg)):  # MMEngine's is no Mapping
        with refused(key=f'kd.teacher.config: {key}', problem=problem):
            require_scopes(given, 'kd.teacher.config: ')


def test_what_a_config_imports_is_left_to_its_reader(tmp_path):
    (tmp_path / 'lazy.py').write_text(
        'from mmengine.config import read_base\n'
        'import no_such_module\n'
        "model = dict(type='mmengine.X')\n"
    )
    require_scopes(Config.fromfile(tmp_path / 'lazy.py', lazy_import=True))


def test_mmpose_needs_mmdet(tmp_path):
    """Its models import it."""
    pytest.importorskip('xtcocotools.mask')
    pytest.importorskip('mmpose')
    code = (
        'from importlib.machinery import PathFinder\n'
        'find = PathFinder.find_spec\n'
        'def others(name, path=None, target=None):\n'
        "    return None if name.partition('.')[0] == 'mmdet' else find(name, path, target)\n"
        'PathFinder.find_spec = others\n'
        'from kdmm.compat.packages import require_scopes\n'
        'try:\n'
        "    require_scopes(dict(default_scope='mmpose'))\n"
        'except ValueError as error:\n'
        '    print(error)'
    )
    (line,) = [x for x in run_python(code, path=ROOT, cwd=tmp_path) if 'installed' in x]
    assert line.startswith(
        "default_scope='mmpose': mmdet is not installed: pip install onedl-mmdet"
    )


def test_configs_of_libraries_that_are_there_pass(without):
    without('mmdet')
    require_scopes(dict(default_scope='mmengine', model=dict(type='SSD'), hook=dict(type='kdmm.A')))
    require_scopes(dict(optimizer=dict(type='torch.optim.SGD'), types=[dict(type=int)]))


def test_a_base_of_a_missing_library_is_named(without, tmp_path):
    without('mmdet')
    (tmp_path / 'own.py').write_text("_base_ = ['mmdet::retinanet/x.py']\n")
    with pytest.raises(ModuleNotFoundError, match='pip install onedl-mmdetection'):
        Config.fromfile(tmp_path / 'own.py')


def test_what_a_library_imports_is_named_instead(tmp_path, monkeypatch):
    (tmp_path / 'needy.py').write_text('import xtcocotools_of_nowhere\n')
    monkeypatch.syspath_prepend(tmp_path)
    with refused(key='key', problem='xtcocotools_of_nowhere is not installed'):
        require('needy', 'key')
    (tmp_path / 'choosy.py').write_text("raise AssertionError('MMCV==3 is incompatible')\n")
    with refused(key='key', problem=('choosy cannot be imported', 'MMCV==3')):
        require('choosy', 'key')


def test_metafiles_are_what_mim_can_list():
    """mim joins lists with commas, which works for text only, and reads the first item."""
    load = pytest.importorskip('modelindex.load_model_index').load
    index = load(str(ROOT / 'model-index.yml'))
    assert len(index.models) > 100
    for part in (*index.collections, *index.models):
        for key, value in part.metadata.data.items():
            items = value if isinstance(value, list) else [str(value)]
            assert items and all(isinstance(item, str) for item in items), (part.name, key, value)
            assert not isinstance(value, dict), (part.name, key)
