"""Every config of HSSAKD: it resolves, is plain outside ``kd``, finds its inputs and trains."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from mmengine.config import Config
from mmengine.logging import MessageHub
from torch import nn

pytest.importorskip('mmpretrain')

from kdmm.engine import build_runner  # noqa: E402
from kdmm.teachers.teacher import load_model_config  # noqa: E402
from kdmm.teachers.zoo import zoo_checkpoint  # noqa: E402

from .hssakd_runs import (  # noqa: E402
    ALL,
    CONFIGS,
    NETWORKS,
    ONLINE,
    PAIRS,
    PAPER,
    PRESETS,
    TEACHERS,
    TWINS,
    branches_in,
    branches_of,
    kind_of,
    read,
    run_of,
    split_name,
)
from .tiny_cifar import shrink_cifar, write_folder  # noqa: E402
from .tiny_data import walk  # noqa: E402


def test_all_runs_of_the_tables_exist() -> None:
    expected = {
        *(f'baseline_{net}_cifar100.py' for net in NETWORKS),
        *(f'{role}_{net}_cifar100.py' for net in TEACHERS for role in ('teacher', 'teacher_joint')),
        *(f'{role}_{pair}_cifar100.py' for pair in PAIRS for role in ('kd', 'hssakd')),
        *(f'hssakd_joint_{pair}_cifar100.py' for pair in PAIRS),
        *(f'online_{net}_cifar100.py' for net in ONLINE),
        'hssakd_joint_resnet56_resnet20_cifar100_25percent.py',
        *(f'{role}_resnet34_imagenet.py' for role in ('teacher', 'teacher_joint')),
        *(f'{role}_resnet34_resnet18_imagenet.py' for role in ('kd', 'hssakd', 'hssakd_joint')),
        *(f'online_{net}_imagenet.py' for net in ('resnet18', 'resnet50')),
    }
    assert set(PAPER) == {f'hssakd/{name}' for name in expected}


@pytest.mark.parametrize('name', ALL)
def test_is_plain_outside_kd(name: str) -> None:
    cfg = read(name).to_dict()
    cfg.pop('kd', None)
    kinds: list[str] = []
    walk(cfg, lambda node: kinds.append(str(node.get('type', ''))))
    ours = {kind for kind in kinds if kind.startswith('kdmm')} - {'kdmm.StratifiedSubset'}
    assert all(kind.startswith('kdmm.CIFAR') for kind in ours)
    imports = cfg.get('custom_imports', {}).get('imports', [])
    assert imports == ([] if 'imagenet' in name else ['kdmm'])
    assert cfg['model']['type'] == 'ImageClassifier'
    assert cfg['default_scope'] == 'mmpretrain'


@pytest.mark.parametrize('name', PAPER)
def test_name_says_the_networks(name: str) -> None:
    """``<role>_[<teacher>_]<network>_<data>``, with the models of the networks' own files."""
    cfg, (role, networks) = read(name), split_name(name)
    suffix = '_imagenet' if 'imagenet' in name else ''
    file = f'hssakd/_base_/{networks[-1]}{suffix}.py'
    if not suffix:
        file = f'_base_/models/cifar/{PRESETS.get(networks[-1], networks[-1])}.py'
    own = Config.fromfile(CONFIGS / file).model
    model = cfg.model.to_dict()
    if role == 'kd' and suffix:
        assert model['head']['loss'].pop('loss_weight') == 0.5
        own.head.loss.pop('loss_weight')
    assert model == own.to_dict()
    if len(networks) == 2:
        zoo = f'mmpretrain::resnet/{networks[0]}_8xb32_in1k.py'
        ours = f'kdmm::hssakd/baseline_{networks[0]}_cifar100.py'
        assert cfg.kd.teacher.config == (zoo if suffix else ours)


@pytest.mark.parametrize('name', ALL)
def test_inputs_are_what_other_configs_leave(name: str) -> None:
    """Teacher and ``load_from``: published, or the last epoch of a run of the right kind."""
    cfg = read(name)
    kind, kd = kind_of(cfg), cfg.get('kd') or {}
    if kind in ('Distiller', 'HSSAKD'):
        model = load_model_config(kd.teacher.config)[0]
        check_input(kd.teacher.checkpoint, kd.teacher.config, model, branched=kind == 'HSSAKD')
        if kind == 'HSSAKD':
            run = run_of(kd.teacher.checkpoint)[0]
            assert bool(read(run).kd.get('joint')) == ('_joint' in name)
            assert branches_of(run) == branches_of(name)
    needs_start = kind == 'HSSAKDTeacher' and not kd.get('joint')
    assert (cfg.get('load_from') is not None) == needs_start
    if needs_start:
        zoo = 'mmpretrain::resnet/resnet34_8xb32_in1k.py'
        check_input(cfg.load_from, zoo, cfg.model, branched=False)


def check_input(checkpoint: str, config: str, model: Any, branched: bool) -> None:
    if checkpoint == 'zoo' or '://' in checkpoint:
        assert not branched
        url = zoo_checkpoint(config)
        assert url.startswith('https://') and checkpoint in ('zoo', url)
        return
    run, epoch = run_of(checkpoint)
    cfg = read(run)
    assert epoch == cfg.train_cfg.max_epochs
    assert kind_of(cfg) == ('HSSAKDTeacher' if branched else '')
    theirs = without_start(model)
    assert theirs.pop('data_preprocessor', cfg.data_preprocessor) == cfg.data_preprocessor
    assert without_start(cfg.model) == theirs


def without_start(model: Any) -> Any:
    """A model's config without what only says how its weights begin."""
    plain = copy.deepcopy(model.to_dict() if hasattr(model, 'to_dict') else dict(model))
    for part, key in (('backbone', 'zero_init_residual'), ('head', 'init_cfg')):
        plain[part].pop(key, None)
    walk(plain, lambda node: node.pop('_scope_', None))
    return plain


@pytest.mark.parametrize('name', TWINS)
def test_a_joint_teacher_is_another_checkpoint(name: str) -> None:
    """Nothing else: so these are not trained below."""
    joint, plain = read(name).to_dict(), read(TWINS[name]).to_dict()
    assert joint['kd']['teacher'].pop('checkpoint') != plain['kd']['teacher'].pop('checkpoint')
    assert joint.pop('work_dir') != plain.pop('work_dir')
    assert joint == plain


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Whether a subset is drawn -> a folder of which four training images are left, one a class."""
    root = tmp_path_factory.mktemp('images')
    for drawn in (False, True):
        write_folder(root / str(drawn), classes=4, per_class=2 if drawn else 1)
    return {drawn: root / str(drawn) for drawn in (False, True)}


@pytest.mark.parametrize('name', [name for name in ALL if name not in TWINS])
def test_trains_two_iterations(name: str, images: dict[bool, Path], tmp_path: Path) -> None:
    cfg = read(name)
    best = cfg.default_hooks.checkpoint.get('save_best', 'accuracy/top1')
    shrink_cifar(cfg, images['Subset' in cfg.train_dataloader.dataset.type], tmp_path)
    assert cfg.train_dataloader.batch_size == 2
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 2
    logged = MessageHub.get_instance(runner.experiment_name).log_scalars
    terms = {tag.removeprefix('train/') for tag in logged if 'loss' in tag}
    assert terms == expected_terms(cfg, runner.model)
    assert all(math.isfinite(logged[f'train/{term}'].current()) for term in terms)
    assert f'val/{best}' in logged
    rotated = kind_of(cfg).startswith('HSSAKD') and not cfg.get('load_from')
    assert (tmp_path / 'recalibrated.pth').is_file() == rotated
    assert (tmp_path / 'peer1.pth').is_file() == (kind_of(cfg) == 'HSSAKDOnline')


def expected_terms(cfg: Config, model: nn.Module) -> set[str]:
    """Log names of the losses of two peers, or of one network."""
    kind = kind_of(cfg)
    if kind in ('', 'Distiller'):
        return {'loss', 'head.loss', 'kd.loss_kd'} if kind else {'loss'}
    stages = [f'stage{i + 1}' for i in range(branches_in(model))]
    joint = {f'kd.loss_joint_{stage}' for stage in stages}
    mutual = {'kd.loss_logits', *(f'kd.loss_{stage}' for stage in stages)}
    peer = {'kd.peer1_loss', *(f'kd.loss_peer1_joint_{stage}' for stage in stages)}
    found = dict(HSSAKDTeacher=joint, HSSAKD=mutual, HSSAKDOnline=joint | mutual | peer)
    return {'loss', 'head.loss'} | found[kind]


def test_readme_lists_every_run() -> None:
    """By name, or by the name's pattern and the network or pair."""
    text = (CONFIGS / 'hssakd' / 'README.md').read_text()
    for name in ALL:
        stem = Path(name).stem
        if name.startswith('hssakd/') and f'`{stem}' not in text:
            role, networks = split_name(name)
            assert f'{role}_<' in text and f'`{"_".join(networks)}`' in text, name


def test_metafile_lists_every_config() -> None:
    index = yaml.safe_load((CONFIGS.parent / 'model-index.yml').read_text())['Import']
    assert 'configs/hssakd/metafile.yml' in index
    metafiles = [yaml.safe_load((CONFIGS.parent / path).read_text()) for path in index]
    content = metafiles[index.index('configs/hssakd/metafile.yml')]
    listed = {model['Config']: model for model in content['Models']}
    assert sorted(listed) == [f'configs/{name}' for name in ALL if name.startswith('hssakd/')]
    for path, model in listed.items():
        cfg = read(path.removeprefix('configs/'))
        devices = 8 if 'imagenet' in path else 1
        assert model['Metadata']['Batch Size'] == devices * cfg.train_dataloader.batch_size
        assert model['Metadata']['Epochs'] == cfg.train_cfg.max_epochs
    names = {known['Name'] for each in metafiles for known in each['Collections']}
    assert {model['In Collection'] for model in listed.values()} <= names
    assert len({model['Name'] for model in listed.values()}) == len(listed)
