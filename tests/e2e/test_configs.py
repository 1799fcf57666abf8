"""Every config: it resolves, is plain outside of ``kd``, trains, and is listed.

What the papers' recipes say of them is in the test_*_recipes.py.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner as PlainRunner

for _library in ('mmdet', 'mmpose', 'mmpretrain', 'mmseg'):
    pytest.importorskip(_library)

from kdmm.engine import build_runner, load_config  # noqa: E402
from kdmm.teachers.zoo import zoo_checkpoint  # noqa: E402
from kdmm.utils.models import without_pretrained  # noqa: E402

from .config_table import (  # noqa: E402
    CONFIGS,
    FAMILIES,
    MOVED,
    TABLE,
    read,
    train,
)
from .test_hssakd_recipes import split_name  # noqa: E402
from .tiny_data import shrink, walk, write_tiny_data  # noqa: E402

FOLDERS = (
    'cirkd',
    'cls_kd',
    'crd',
    'hsjp',
    'hssakd',
    'lmcl',
    'mcl',
    'mcl_okd',
    'pruning',
    'seg_kd',
    'transfer',
)
#: Families whose configs are the base library's, but for ``kd``.
COHORTS = [FAMILIES[name] for name in ('lmcl', 'mcl', 'mcl_okd')]
#: Folders whose metafiles say a batch: of one device, on ImageNet of eight.
BATCHES = ('crd', 'hssakd', 'lmcl', 'mcl', 'mcl_okd')
TRAINED = [name for name, family in TABLE.items() if not family.left_out(name)]


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the families' images, written once."""
    return tmp_path_factory.mktemp('data')


def test_the_table_has_every_config() -> None:
    there = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob('*.py')}
    inherited = {name for name in there if '_base_' in name}
    assert set(TABLE) == there - inherited - set(MOVED)
    assert set(MOVED) | set(MOVED.values()) <= there
    assert all(family.names for family in FAMILIES.values())


@pytest.mark.parametrize('old', MOVED)
def test_an_old_path_is_the_new_one(old: str) -> None:
    for place in (f'{CONFIGS}/', 'kdmm::'):
        with pytest.warns(DeprecationWarning, match=f'{MOVED[old]} instead'):
            cfg = Config.fromstring(f"_base_ = '{place}{old}'", '.py')
        assert cfg.to_dict() == Config.fromfile(CONFIGS / MOVED[old]).to_dict()


@pytest.mark.parametrize('name', TABLE)
def test_is_plain_outside_kd(name: str) -> None:
    cfg, family = read(name).to_dict(), TABLE[name]
    cfg.pop('kd', None)
    kinds: list[str] = []
    walk(cfg, lambda node: kinds.append(str(node.get('type', ''))))
    ours = {kind for kind in kinds if kind.startswith('kdmm')}
    assert all(kind.startswith(family.ours) for kind in ours)
    imports = cfg.get('custom_imports', {}).get('imports', [])
    assert imports == (['kdmm'] if ours or '_cifar100' in name else [])
    if not name.startswith('transfer/'):
        assert cfg['default_scope'] == family.library
    if family.library == 'mmpretrain':
        pretrained = 'moco' in name and 'linear' not in name
        assert cfg['model']['type'] == ('MoCo' if pretrained else 'ImageClassifier')


@pytest.mark.parametrize('name', TABLE)
def test_zoo_teacher_has_published_weights(name: str) -> None:
    teachers = (read(name).get('kd') or {}).get('teacher', [])
    for teacher in teachers if isinstance(teachers, list) else [teachers]:
        if teacher.get('checkpoint') == 'zoo':
            assert zoo_checkpoint(teacher.config).startswith('https://')


# training

_RAN: set[str] = set()
_SHAPES: dict[str, dict[str, torch.Size]] = {}


@pytest.mark.parametrize('name', TRAINED)
def test_trains(name: str, data: Path, tmp_path: Path) -> None:
    """Two iterations and a validation where the run or its objective is the first of its kind.

    That is decided by the small configs themselves. What differs from others in the networks alone
    is built with its objective, which runs both on a blank image; tools/check_configs.py trains
    every config. What does not differ at all has run already.
    """
    cfg, family = read(name), TABLE[name]
    scores = family.scores(cfg)
    family.shrink(cfg, data, tmp_path / 'work')
    cfg.experiment_name = str(tmp_path)  # there is one of a name in a process
    run, objective, whole = (key.replace(str(tmp_path), '') for key in keys(cfg, scores))
    if whole in _RAN:
        return
    if {run, objective} <= _RAN:
        runner, logged = build_runner(cfg), {}
    else:
        runner, logged = train(cfg, 2, scores)
    if family.library == 'mmseg':
        assert shapes_of(runner.model) == plain_shapes(cfg.model)
    pretext = logged and 'Jigsaw' in str(cfg.get('custom_hooks'))
    if pretext:
        assert logged['train/loss_blind'].current() < logged['train/loss_zero'].current()
    assert not pretext or not [tag for tag in logged if 'AP' in tag or 'pck/' in tag]
    _RAN.update((run, objective, whole))


def keys(cfg: Config, scores: set[str]) -> tuple[str, str, str]:
    """The run without networks and objective, the objective without its teachers, and all."""
    found = cfg.to_dict()
    for key in ('work_dir', 'experiment_name', 'visualizer'):
        found.pop(key, None)
    found['load_from'] = bool(found.get('load_from'))
    whole = str((found, sorted(scores)))
    found.pop('model')
    objective = found.pop('kd', {})
    objective.pop('teacher', None)
    if isinstance(objective.get('peers'), list):
        objective['peers'] = f'{len(objective["peers"])} others'
    return str((found, sorted(scores))), f'kd {objective}', whole


def shapes_of(model: Any) -> dict[str, torch.Size]:
    """Of a student, without what belongs to the objective."""
    state = model.state_dict()
    return {key: value.shape for key, value in state.items() if not key.startswith('kd.')}


def plain_shapes(model: Any) -> dict[str, torch.Size]:
    """Keys and shapes of the base library's network; most configs share theirs with others."""
    text = str(model.to_dict())
    if text not in _SHAPES:
        with MODELS.switch_scope_and_registry('mmseg') as registry:
            _SHAPES[text] = shapes_of(registry.build(model))
    return _SHAPES[text]


@pytest.mark.parametrize('name', [name for family in COHORTS for name in family.names])
def test_the_base_library_builds_it(name: str, data: Path, tmp_path: Path) -> None:
    """Model and batches by its own runner: ``kd`` says nothing to it as long as kdmm is unknown."""
    cfg = read(name)
    if TABLE[name] not in COHORTS:
        return
    TABLE[name].shrink(cfg, data, tmp_path)
    cfg.pop('kd', None)
    cfg.experiment_name = str(tmp_path)
    key = f'plain {keys(cfg, set())[2]}'
    if key in _RAN:
        return
    runner = PlainRunner.from_cfg(cfg)
    assert type(runner.model).__name__ == 'ImageClassifier' and not hasattr(runner.model, 'kd')
    loader = PlainRunner.build_dataloader(cfg.train_dataloader, seed=0)
    assert [len(batch['data_samples']) for batch in loader] == [4, 4]
    _RAN.add(key)


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


# what is written about them


@pytest.fixture(scope='module')
def metafiles() -> dict[str, Any]:
    """Path of each that the index names -> its content."""
    index = yaml.safe_load((CONFIGS.parent / 'model-index.yml').read_text())['Import']
    return {path: yaml.safe_load((CONFIGS.parent / path).read_text()) for path in index}


@pytest.mark.parametrize('folder', FOLDERS)
def test_metafile_lists_every_config(folder: str, metafiles: dict[str, Any]) -> None:
    models = metafiles[f'configs/{folder}/metafile.yml']['Models']
    listed = {model['Config']: model for model in models}
    mine = [f'configs/{name}' for name in TABLE if name.startswith(f'{folder}/')]
    assert sorted(listed) == sorted(mine) and len(listed) == len(models)
    assert len({model['Name'] for model in models}) == len(models)
    collections = [known['Name'] for each in metafiles.values() for known in each['Collections']]
    assert len(set(collections)) == len(collections)
    assert {model['In Collection'] for model in models} <= set(collections)
    for path, model in listed.items():
        cfg, said = read(path.removeprefix('configs/')), model['Metadata']
        if 'Batch Size' in said:
            devices = said['Batch Size'] / cfg.train_dataloader.batch_size
            assert devices in ((1, 8) if folder in BATCHES else (1, 2, 4, 8))
            assert folder not in BATCHES or (devices == 8) == ('imagenet' in path)
        if 'Epochs' in said:
            assert said['Epochs'] == cfg.train_cfg.max_epochs


def test_metafiles_say_sizes_and_epochs_where_they_did(metafiles: dict[str, Any]) -> None:
    for folder, keys_said in (('cirkd', 1), ('seg_kd', 1), ('hssakd', 2)):
        for model in metafiles[f'configs/{folder}/metafile.yml']['Models']:
            assert len({'Batch Size', 'Epochs'} & set(model['Metadata'])) == keys_said


@pytest.mark.parametrize('folder', ['hsjp', 'hssakd', 'lmcl', 'mcl_okd', 'transfer'])
def test_readme_lists_every_config(folder: str) -> None:
    """By name, or by the name's pattern and the network, pair or detector."""
    text = (CONFIGS / folder / 'README.md').read_text()
    for name in (name for name in TABLE if name.startswith(f'{folder}/')):
        stem = Path(name).stem
        if folder in ('hsjp', 'lmcl', 'mcl_okd'):
            assert f'{stem}.py' in text, name
        elif folder == 'transfer':
            assert stem.rsplit('_', 1)[0] in text, name
        elif f'`{stem}' not in text:
            role, networks = split_name(name)
            assert f'{role}_<' in text and f'`{"_".join(networks)}`' in text, name
