import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from kdmm.compat import packages, setup
from kdmm.compat.packages import config_file, config_root, register_packages

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


@pytest.mark.slow
def test_a_wheel_carries_the_configs(tmp_path):
    """Another project inherits ``kdmm::`` from an installed wheel, as from a checkout."""
    source, site = tmp_path / 'source', tmp_path / 'site'
    source.mkdir()
    for name in ('kdmm', 'tools'):
        shutil.copytree(ROOT / name, source / name)
    for name in ('pyproject.toml', 'setup.py', 'MANIFEST.in', 'model-index.yml', 'LICENSE'):
        shutil.copy2(ROOT / name, source)
    (source / 'README.md').write_text('kdmm\n')
    fake_checkout(source / 'configs')
    (source / 'configs' / 'cirkd').mkdir()
    (source / 'configs' / 'cirkd' / 'metafile.yml').write_text('Models: []\n')
    pip = [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--no-build-isolation']
    subprocess.run([*pip, '--no-index', '--target', site, source], check=True)
    project = tmp_path / 'own.py'
    project.write_text("_base_ = ['kdmm::_base_/method.py']\n")
    code = (
        'import sys, kdmm.compat; kdmm.compat.setup()\n'
        'from mmengine.config import Config\n'
        'print(kdmm.__file__)\n'
        'print(Config.fromfile(sys.argv[1]).kd.losses.a)'
    )
    where, kind = run_python(code, str(project), path=site, cwd=tmp_path)[-2:]
    assert where == str(site / 'kdmm' / '__init__.py')
    assert 'KDLoss' in kind and '_scope_' not in kind
    assert (site / 'kdmm' / '.mim' / 'tools' / 'dist_train.sh').is_file()
