"""The pose configs are MMPose's, with patches in the place of joints or with other weights."""

from pathlib import Path

import pytest
from mmengine.config import Config

pytest.importorskip('mmpose')

from .config_table import CONFIGS, FAMILIES, read  # noqa: E402

ALL = FAMILIES['estimators'].names
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
