"""Every pose config: it resolves, inherits MMPose's, builds and trains."""

import copy
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from mmengine.config import Config
from mmengine.logging import MessageHub

pytest.importorskip('mmpose')

from kdmm.engine import build_runner, load_config  # noqa: E402

from .test_configs import CONFIGS  # noqa: E402
from .tiny_pose import shrink_pose, write_people  # noqa: E402

ALL = sorted(
    path.relative_to(CONFIGS).as_posix()
    for pattern in ('hsjp/*.py', 'small/pose*/*.py')
    for path in CONFIGS.glob(pattern)
    if not path.name.startswith('_base_')
)
PRETEXT = [name for name in ALL if Path(name).name.startswith('pretrain')]
PAPER = [name for name in PRETEXT if name.startswith('hsjp/') and 'lite' not in name]
#: backbone -> what MMPose calls it, and its batch a GPU at 256x192 and 384x288
ZOO = {
    'simplebaseline_r50': ('res50', 64, 64),
    'simplebaseline_r101': ('res101', 64, 32),
    'simplebaseline_r152': ('res152', 32, 32),
    'hrnet_w32': ('hrnet-w32', 64, 64),
    'hrnet_w48': ('hrnet-w48', 32, 32),
}


@pytest.fixture(scope='module')
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('people')
    write_people(root)
    return root


def read(name: str) -> Config:
    return copy.deepcopy(_parsed(name))


@cache
def _parsed(name: str) -> Config:
    return load_config(str(CONFIGS / name))


@pytest.mark.parametrize('name', ALL)
def test_trains_two_iterations(name: str, people: Path, tmp_path: Path) -> None:
    cfg = read(name)
    shrink_pose(cfg, people, tmp_path)
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 2
    logged = MessageHub.get_instance(runner.experiment_name).log_scalars
    assert math.isfinite(logged['train/loss'].current())
    if name in PRETEXT:
        assert logged['train/loss_blind'].current() < logged['train/loss_zero'].current()
        assert {tag for tag in logged if tag.startswith('val/jigsaw')} >= {
            'val/jigsaw/patch_acc',
            'val/jigsaw/mre',
        }
        assert not [tag for tag in logged if 'coco' in tag or 'AP' in tag or 'pck/' in tag]
    else:
        assert 'val/coco/AP' in logged


def zoo(name: str) -> Config:
    """MMPose's own config of the network in ``hsjp/{pretrain,finetune}_<network>_<size>.py``."""
    network, size = Path(name).stem.split('_', 1)[1].rsplit('_', 1)
    stem, *batches = ZOO[network]
    batch = batches[size == '384x288']
    path = f'body_2d_keypoint/topdown_heatmap/coco/td-hm_{stem}_8xb{batch}-210e_coco-{size}.py'
    return Config.fromstring(f"_base_ = 'mmpose::{path}'", '.py')


def test_both_kinds_exist_for_all_networks_and_sizes() -> None:
    expected = {
        f'hsjp/{kind}_{network}_{size}.py'
        for kind in ('pretrain', 'finetune')
        for network in ZOO
        for size in ('256x192', '384x288')
    }
    assert {name for name in ALL if name.startswith('hsjp/')} - expected == {
        'hsjp/pretrain_simplebaseline_r50_256x192_lite.py'
    }
    assert expected <= set(ALL)


@pytest.mark.parametrize('name', PAPER)
def test_pretext_is_the_base_librarys_config(name: str) -> None:
    """Patches in the place of joints, no weights, no half body; all else as MMPose has it."""
    ours, theirs = read(name).to_dict(), zoo(name).to_dict()
    assert ours['model']['backbone'].pop('init_cfg') is None
    theirs['model']['backbone'].pop('init_cfg')
    assert ours['model']['head'].pop('out_channels') == 12
    assert theirs['model']['head'].pop('out_channels') == 17
    assert ours['model'].pop('test_cfg')['flip_test'] is False
    theirs['model'].pop('test_cfg')
    assert ours['model'] == theirs['model']
    same = ('optim_wrapper', 'param_scheduler', 'train_cfg', 'auto_scale_lr', 'codec')
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    assert ours['train_dataloader']['batch_size'] == theirs['train_dataloader']['batch_size']
    assert ours['val_dataloader']['dataset']['bbox_file'] is None
    kinds = [step['type'] for step in ours['train_dataloader']['dataset']['pipeline']]
    assert 'RandomHalfBody' not in kinds
    place = kinds.index('kdmm.ShufflePatches')
    assert (kinds[place - 1], kinds[place + 1]) == ('TopdownAffine', 'GenerateTarget')


@pytest.mark.parametrize('name', [name.replace('pretrain', 'finetune') for name in PAPER])
def test_finetuning_is_the_base_librarys_config(name: str) -> None:
    ours, theirs = read(name).to_dict(), zoo(name).to_dict()
    for key in ('strict_load', 'reproducible', 'work_dir'):
        ours.pop(key)
    theirs['model']['backbone']['init_cfg'] = None
    assert ours == theirs


def test_lite_is_shorter() -> None:
    lite = read('hsjp/pretrain_simplebaseline_r50_256x192_lite.py').to_dict()
    full = read('hsjp/pretrain_simplebaseline_r50_256x192.py').to_dict()
    assert lite.pop('train_cfg')['max_epochs'] == 60
    assert lite.pop('param_scheduler')[1]['milestones'] == [45, 55]
    for key in ('train_cfg', 'param_scheduler', 'work_dir'):
        full.pop(key)
    lite.pop('work_dir')
    assert lite == full


def test_the_two_bases_of_a_size_are_one() -> None:
    texts = [path.read_text() for path in sorted((CONFIGS / 'hsjp' / '_base_').glob('*.py'))]
    bodies = {''.join(line for line in _lines(text) if '_base_ =' not in line) for text in texts}
    assert len(texts) == 4 and len(bodies) == 2


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def test_readme_lists_every_config() -> None:
    text = (CONFIGS / 'hsjp' / 'README.md').read_text()
    assert not [name for name in ALL if name.startswith('hsjp/') and Path(name).name not in text]


def test_metafile_lists_every_config() -> None:
    index = yaml.safe_load((CONFIGS.parent / 'model-index.yml').read_text())['Import']
    assert 'configs/hsjp/metafile.yml' in index
    content: Any = yaml.safe_load((CONFIGS / 'hsjp' / 'metafile.yml').read_text())
    assert sorted(model['Config'] for model in content['Models']) == [
        f'configs/{name}' for name in ALL if name.startswith('hsjp/')
    ]
    names = {known['Name'] for known in content['Collections']}
    assert {model['In Collection'] for model in content['Models']} <= names
