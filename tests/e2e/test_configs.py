"""Every segmentation config: it resolves, is plain outside ``kd``, builds and trains.

Those of pose, classification and detection are in test_hsjp_configs.py, test_hssakd_configs.py and
test_transfer_configs.py.
"""

import copy
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.logging import MessageHub

pytest.importorskip('mmseg')

from mmseg.registry import MODELS  # noqa: E402

from kdmm.engine import build_runner, load_config  # noqa: E402
from kdmm.losses import KDLoss  # noqa: E402
from kdmm.teachers.zoo import zoo_checkpoint  # noqa: E402
from kdmm.utils.models import without_pretrained  # noqa: E402

from .tiny_data import shrink, walk, write_tiny_data  # noqa: E402

CONFIGS = Path(__file__).parents[2] / 'configs'
OTHERS = ('_base_', 'hsjp', 'pose', 'hssakd', 'cifar10', 'mcl', 'transfer', 'bccd')
ALL = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    if not any(part.startswith(OTHERS) for part in path.relative_to(CONFIGS).parts)
    and path.parent.name != 'camvid_small'
)
#: with the reference's recipe
PUBLISHED = [name for name in ALL if name.startswith('cirkd/') or 'cityscapes' in name]
#: our config -> the zoo's config of the same student
TWINS = {
    'deeplab_r101_r18_cityscapes': 'deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024',
    'deeplab_r101_psp_r18_cityscapes': 'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
    'deeplab_r101_mobilenetv2_cityscapes': (
        'mobilenet_v2/mobilenet-v2-d8_deeplabv3_4xb2-80k_cityscapes-512x1024'
    ),
    'segformer_b4_b0_cityscapes': 'segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024',
}
_SHAPES: dict[str, dict[str, torch.Size]] = {}


def read(name: str) -> Config:
    """A config of ours, the caller's to change; each file is parsed once, which takes a second."""
    return copy.deepcopy(_parsed(name))


@cache
def _parsed(name: str) -> Config:
    return load_config(str(CONFIGS / name))


@pytest.mark.parametrize('name', ALL)
def test_is_plain_outside_kd(name: str) -> None:
    cfg = read(name).to_dict()
    cfg.pop('kd', None)
    foreign: list[str] = []
    walk(cfg, lambda node: foreign.append(str(node.get('type', ''))))
    foreign += [str(item) for item in cfg.get('custom_imports', {}).get('imports', [])]
    assert not [kind for kind in foreign if kind.startswith('kdmm')]
    assert cfg['default_scope'] == 'mmseg'


@pytest.mark.parametrize('name', ALL)
def test_zoo_teacher_has_published_weights(name: str) -> None:
    cfg = read(name)
    teachers = cfg.get('kd', {}).get('teacher', [])
    for teacher in teachers if isinstance(teachers, list) else [teachers]:
        if teacher.get('checkpoint') == 'zoo':
            assert zoo_checkpoint(teacher.config).startswith('https://')


@pytest.mark.parametrize('name', ALL)
def test_trains_two_iterations(name: str, tmp_path: Path) -> None:
    cfg = read(name)
    shrink(cfg, tmp_path / 'work')
    write_tiny_data(cfg, tmp_path / 'data')
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 2
    distilled = {
        key: value.shape
        for key, value in runner.model.state_dict().items()
        if not key.startswith('kd.')
    }
    assert distilled == plain_shapes(cfg.model)
    logged = MessageHub.get_instance(runner.experiment_name).log_scalars
    for term in expected_terms(cfg.get('kd', {})):
        assert math.isfinite(logged[f'train/{term}'].current()), term
    assert 'val/mIoU' in logged


def plain_shapes(model: Any) -> dict[str, torch.Size]:
    """Keys and shapes of the base library's network; most configs share theirs with others."""
    text = str(model.to_dict())
    if text not in _SHAPES:
        state = MODELS.build(model).state_dict()
        _SHAPES[text] = {key: value.shape for key, value in state.items()}
    return _SHAPES[text]


def expected_terms(kd: Any) -> list[str]:
    """Log names of the terms that a ``kd`` section asks for."""
    terms = ['loss']
    for name, loss in kd.get('losses', {}).items():
        parts = loss.weight if isinstance(loss.weight, dict) else {}
        terms += [f'kd.loss_{name}_{part}' for part in parts] or [f'kd.loss_{name}']
    return terms


@pytest.mark.parametrize('name', TWINS)
def test_student_is_the_base_librarys(name: str) -> None:
    """The student differs from the zoo's config of it in what the README lists, only."""
    ours = read(f'cirkd/{name}.py').model.to_dict()
    zoo = Config.fromstring(f"_base_ = 'mmseg::{TWINS[name]}.py'", '.py').model.to_dict()
    for model in (ours, zoo):
        walk(model, drop_recipe)
        model.pop('test_cfg')
    if 'mobilenet' in name:  # the reference trains it without auxiliary head
        zoo['auxiliary_head'] = None
    assert ours == zoo


def drop_recipe(node: Any) -> None:
    """Remove what the reference's recipe sets in a head."""
    for key in ('align_corners', 'avg_non_ignore', '_scope_'):
        node.pop(key, None)


@pytest.mark.parametrize('name', PUBLISHED)
def test_recipe_is_the_references(name: str) -> None:
    cfg = read(name)
    transforms = train_transforms(cfg)
    kinds = [transform['type'] for transform in transforms]
    assert 'PhotoMetricDistortion' not in kinds
    assert next(t for t in transforms if t['type'] == 'RandomCrop')['cat_max_ratio'] == 1.0
    schedule = cfg.param_scheduler
    assert [step.type for step in schedule] == ['PolyLR']
    assert (schedule[0].power, schedule[0].eta_min) == (0.9, 0.0)
    assert schedule[0].end == cfg.train_cfg.max_iters
    assert cfg.train_cfg.val_interval == 800
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'
    assert 'paramwise_cfg' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.optimizer.weight_decay == 1e-4
    devices = 8 if 'kd' in cfg else 4
    assert cfg.auto_scale_lr.base_batch_size == devices * cfg.train_dataloader.batch_size
    assert cfg.model.data_preprocessor.size == cfg.crop_size


def test_constants_are_the_references() -> None:
    kd = read('cirkd/deeplab_r101_r18_cityscapes.py').kd
    assert (KDLoss().temperature, kd.losses.kd) == (
        1.0,
        dict(type='KDLoss', on='logits', weight=1.0),
    )
    assert (kd.losses.p2p.tau, kd.losses.p2p.weight) == (0.1, 1.0)
    assert kd.losses.memory.weight == dict(pixel=0.1, region=0.1)
    for student in ('r18', 'psp_r18'):
        voc = read(f'cirkd/deeplab_r101_{student}_voc.py').kd
        assert voc.losses.memory.weight == dict(pixel=0.01, region=0.01)
    segformer = read('cirkd/segformer_b4_b0_cityscapes.py')
    assert (segformer.kd.losses.p2p.pool, segformer.kd.losses.memory.pixel_size) == (2, 2000)
    assert segformer.optim_wrapper.optimizer.lr == 2e-4
    assert segformer.train_dataloader.batch_size == 1


def train_transforms(cfg: Config) -> list[Any]:
    """The training pipeline; of the first data set where several are joined."""
    dataset = cfg.train_dataloader.dataset
    return (dataset.datasets[0] if 'datasets' in dataset else dataset).pipeline


@pytest.mark.parametrize('folder', ['cirkd', 'seg_kd'])
def test_metafile_lists_every_config(folder: str) -> None:
    index = yaml.safe_load((CONFIGS.parent / 'model-index.yml').read_text())['Import']
    assert f'configs/{folder}/metafile.yml' in index
    metafiles = [yaml.safe_load((CONFIGS.parent / path).read_text()) for path in index]
    metafile = metafiles[index.index(f'configs/{folder}/metafile.yml')]
    listed = [model['Config'] for model in metafile['Models']]
    assert sorted(listed) == [f'configs/{name}' for name in ALL if name.startswith(f'{folder}/')]
    for model in metafile['Models']:
        batch = read(model['Config'].removeprefix('configs/')).train_dataloader.batch_size
        assert model['Metadata']['Batch Size'] % batch == 0
    collections = [known['Name'] for each in metafiles for known in each['Collections']]
    assert len(set(collections)) == len(collections)
    assert {model['In Collection'] for model in metafile['Models']} <= set(collections)


TWO_LINES = """
_base_ = ['mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py',
          'kdmm::_base_/kd/cirkd.py']
kd = dict(teacher=dict(
    config='mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py',
    checkpoint='zoo'))
"""


@pytest.mark.parametrize(
    'text', [TWO_LINES, "_base_ = 'kdmm::cirkd/deeplab_r101_r18_camvid.py'"], ids=['base', 'whole']
)
def test_works_from_another_project(text: str, tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text(text)
    cfg = load_config(str(tmp_path / 'mine.py'))
    shrink(cfg, tmp_path / 'work', max_iters=1)
    write_tiny_data(cfg, tmp_path / 'data')
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 1


def test_shrinking_forgets_all_weights() -> None:
    """No test of this file may download: the pretrained weights of both networks are dropped."""
    cfg = read('cirkd/segformer_b4_b0_cityscapes.py')
    cfg.model = without_pretrained(cfg.model)
    assert 'init_cfg' not in cfg.model.backbone
