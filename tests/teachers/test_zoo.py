import subprocess
from importlib.util import find_spec

import pytest

from kdmm.compat import packages
from kdmm.teachers.zoo import zoo_checkpoint, zoo_config

# config, how its weight file's name starts
KNOWN = [
    (
        'mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py',
        'deeplabv3_r18-d8_512x1024_80k_cityscapes_',
    ),
    (
        'mmseg::deeplabv3/deeplabv3_r101-d8_4xb2-80k_cityscapes-512x1024.py',
        'deeplabv3_r101-d8_512x1024_80k_cityscapes_',
    ),
    (
        'mmseg::segformer/segformer_mit-b4_8xb1-160k_cityscapes-1024x1024.py',
        'segformer_mit-b4_8x1_1024x1024_160k_cityscapes_',
    ),
    (
        'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py',
        'td-hm_res50_8xb64-210e_coco-256x192-',
    ),
    ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'faster_rcnn_r50_fpn_1x_coco_'),
    ('mmpretrain::resnet/resnet18_8xb32_in1k.py', 'resnet18_8xb32_in1k_'),
]
R18 = KNOWN[0][0]


@pytest.fixture(autouse=True)
def no_commands(monkeypatch):
    """Neither pip nor any other program is started."""

    def refuse(*args, **kwargs):
        raise AssertionError(f'a program was started: {args}')

    for name in ('Popen', 'run', 'call', 'check_call', 'check_output'):
        monkeypatch.setattr(subprocess, name, refuse)
    monkeypatch.setattr('mmengine.utils.package_utils.call_command', refuse)
    monkeypatch.setattr('os.system', refuse)


def require(config: str) -> None:
    package = config.partition('::')[0]
    if find_spec(package) is None:
        pytest.skip(f'{package} is not installed')


@pytest.fixture
def library(tmp_path, monkeypatch):
    """An installed package ``mmfake`` with a model index; returns its ``.mim`` folder."""
    root = tmp_path / 'mmfake' / '.mim'
    (root / 'configs' / 'net').mkdir(parents=True)
    (tmp_path / 'mmfake' / '__init__.py').write_text('raise RuntimeError("imported")\n')
    (root / 'model-index.yml').write_text('Import:\n- configs/net/metafile.yml\n')
    for name in ('net_a', 'net_b', 'net_c', 'net_d'):
        (root / 'configs' / 'net' / f'{name}.py').write_text('')
    (root / 'configs' / 'net' / 'metafile.yml').write_text(
        'Models:\n'
        '- {Name: z, Config: configs/net/z.py, Parent: configs/net/net_a.py, Weights: wrong}\n'
        '- {Name: a, Config: configs/net/net_a.py, Weights: "https://host/a.pth"}\n'
        '- {Name: a2, Config: configs/net/net_a.py, Weights: "https://host/a2.pth"}\n'
        '- {Name: b, Config: configs/net/net_b.py, Weights: [weights/b.pth, x.pth]}\n'
        '- {Name: c, Config: configs/net/net_c.py}\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    return root


@pytest.mark.parametrize('config, start', KNOWN)
def test_the_base_libraries_weights(config, start):
    require(config)
    url = zoo_checkpoint(config)
    assert url.startswith('https://') and url.endswith('.pth')
    assert url.rpartition('/')[2].startswith(start)


def test_the_config_is_found_with_and_without_suffix(library):
    expected = library / 'configs' / 'net' / 'net_a.py'
    assert zoo_config('mmfake::net/net_a.py') == zoo_config('mmfake::net/net_a') == str(expected)


def test_the_first_entry_counts_and_nothing_is_imported(library):
    assert zoo_checkpoint('mmfake::net/net_a.py') == 'https://host/a.pth'


def test_a_relative_path_lies_beside_the_index(library):
    assert zoo_checkpoint('mmfake::net/net_b.py') == str((library / 'weights/b.pth').resolve())


def test_without_an_index_all_metafiles_are_read(library):
    (library / 'model-index.yml').unlink()
    assert zoo_checkpoint('mmfake::net/net_a.py') == 'https://host/a.pth'


@pytest.mark.parametrize('config', ['mmfake::net/net_c.py', 'mmfake::net/net_d.py'])
def test_a_config_without_weights(library, config):
    with pytest.raises(ValueError, match='no weights are published .*path or URL'):
        zoo_checkpoint(config)


def test_an_unknown_config_names_the_nearest(library):
    with pytest.raises(
        FileNotFoundError, match=r"no config 'net/net_aa.py'; nearest: net/net_a\.py"
    ):
        zoo_checkpoint('mmfake::net/net_aa.py')


def test_an_unknown_config_of_mmseg():
    require(R18)
    with pytest.raises(FileNotFoundError, match=R18.partition('::')[2]):
        zoo_checkpoint(R18.replace('r18-', 'r19-'))


def test_a_missing_package_is_named(monkeypatch):
    real = find_spec
    monkeypatch.setattr(packages, 'find_spec', lambda n: None if n == 'mmseg' else real(n))
    with pytest.raises(
        ModuleNotFoundError, match='not installed: pip install onedl-mmsegmentation'
    ):
        zoo_checkpoint(R18)


@pytest.mark.parametrize('config', ['deeplabv3.py', 'work_dirs/own.py', 'mmseg::'])
def test_a_plain_file_has_no_zoo_weights(config):
    with pytest.raises(ValueError, match='<package>::<path>'):
        zoo_checkpoint(config)
