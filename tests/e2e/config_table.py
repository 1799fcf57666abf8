"""The table of our configs: which there are, how each is made small, and what its run must leave.

The tests of this folder train one config of each kind, ``tools/check_configs.py`` all of them.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS

from kdmm.engine import build_runner, load_config
from kdmm.hooks.ownership import objective_of
from kdmm.models.staging import staging_of
from kdmm.teachers.teacher import load_model_config

from .brief import forget_imports
from .tiny_boxes import BCCD, BCCD_CLASSES, COCO, shrink_detection, write_coco, write_voc
from .tiny_cifar import shrink_cifar, shrink_pairs, write_folder, write_pairs
from .tiny_data import shrink, walk, write_tiny_data
from .tiny_pose import shrink_pose, write_people

CONFIGS = Path(__file__).parents[2] / 'configs'
SAMPLER = 'kdmm.PKSampler'
FEW_SHOT = ('kdmm.ClassSubset', 'kdmm.FewShotMetric', 'kdmm.FeaturesHook')
#: Kinds of objectives that are cohorts.
COHORTS = ('Cohort', 'LMCL')
#: Blocks of each stage of a ResNet of bottlenecks, for which no depth of the base libraries stands.
BOTTLENECKS = {14: (1, 1, 1, 1)}
#: Kind of a deep network, with its depth or block, to what makes it shallow and changes no width.
SHALLOW: dict[tuple[str, str], dict[str, Any]] = {
    ('kdmm.CIFARResNet', 'basic'): dict(depth=8),
    ('kdmm.CIFARResNet', 'bottleneck'): dict(depth=11),
    ('kdmm.CIFARVGG', '13'): dict(depth=8),
    **{('kdmm.CIFARWideResNet', depth): dict(depth=10) for depth in ('16', '28', '40')},
    ('ResNet', '34'): dict(depth=18),
    **{('ResNet', depth): dict(depth=14) for depth in ('50', '101', '152')},
    ('ResNetV1c', '101'): dict(depth=14),
    ('ResNet_CIFAR', '50'): dict(depth=14),
    ('MixVisionTransformer', '[3, 8, 27, 3]'): dict(num_layers=[1, 1, 1, 1]),
}
#: One of each name of 0.1 -> where it is.
MOVED = {
    '_base_/cirkd.py': '_base_/kd/cirkd.py',
    '_base_/cirkd_segformer.py': '_base_/kd/cirkd_segformer.py',
    **{f'camvid_small/{arm}.py': f'small/camvid/{arm}.py' for arm in ('student', 'teacher')},
    **{
        f'cifar10_small/{arm}.py': f'small/cifar10/{arm}.py'
        for arm in ('student', 'teacher', 'probe')
    },
    **{
        f'bccd_small/{network}_r18_fpn.py': f'small/bccd/{network}_r18_fpn.py'
        for network in ('faster-rcnn', 'retinanet')
    },
    **{
        f'pose_small/{arm}.py': f'small/pose/{arm}.py'
        for arm in ('pretrain', 'pretrain_identity', 'finetune')
    },
    **{f'pose_scenes/{arm}.py': f'small/pose_scenes/{arm}.py' for arm in ('pretrain', 'finetune')},
}


@dataclass(frozen=True)
class Family:
    """Configs of one library that are made small in one way.

    Attributes:
        library: The base library, which gives the default scope.
        patterns: Of the files; the cheapest first, as the first of its kind is trained.
        shrink: Let a config run an epoch, or two iterations, and a validation, on a few images.
        scores: Tags of its validation.
        ours: Registered types of ours that may stand outside of ``kd``.
        left_out: Its configs that test_configs.py leaves to another test.
    """

    library: str
    patterns: tuple[str, ...]
    shrink: Callable[[Config, Path, Path], None]
    scores: Callable[[Config], set[str]]
    ours: tuple[str, ...] = ()
    left_out: Callable[[str], bool] = lambda name: False

    @property
    def names(self) -> list[str]:
        """Its configs, below ``configs/``."""
        found = [path for pattern in self.patterns for path in sorted(CONFIGS.glob(pattern))]
        names = dict.fromkeys(path.relative_to(CONFIGS).as_posix() for path in found)
        return [name for name in names if '_base_' not in name and name not in MOVED]


def read(name: str) -> Config:
    """A config of ours, the caller's to change; each file is parsed once, which takes a second."""
    return copy.deepcopy(_parsed(name))


@cache
def _parsed(name: str) -> Config:
    cfg = load_config(str(CONFIGS / name))
    forget_imports()  # nor is a collection to go through all configs that were read
    return cfg


def kind_of(cfg: Config) -> str:
    """``kd.type``; '' for a plain run."""
    return str(cfg.kd.get('type', 'Distiller')) if cfg.get('kd') else ''


def peers_of(kd: Any) -> list[str]:
    """Names of the networks of a cohort beside the one that is kept."""
    peers = kd.get('peers', 1)
    count = peers if isinstance(peers, int) else 1 + len(peers)
    return [f'peer{i}' for i in range(count) if i != kd.get('keep', 0)]


def stages_of(cfg: Config, model: Any) -> dict[str, list[str]]:
    """Prefix of each network of a cohort with branches -> names of these."""
    branches = objective_of(model).branches if kind_of(cfg) in COHORTS else {}
    names = ['student', *peers_of(cfg.kd)] if len(branches) else []
    return {
        '' if name == 'student' else f'{name}/': list(branches[name].branches) for name in names
    }


def make_shallow(model: Any, scope: str) -> None:
    """Fewer blocks of the same kind and width.

    Args:
        model: A section of a config, changed in place.
        scope: Of its base library.
    """
    backbone = model.backbone
    what = backbone.get('block', backbone.get('depth', backbone.get('num_layers')))
    backbone.update(SHALLOW.get((backbone.type, str(what)), {}))
    if backbone.get('depth') in BOTTLENECKS and 'ResNet' in backbone.type:
        _add_depth(backbone.type, backbone.depth, scope)
    if backbone.type == 'HRNet':
        walk(backbone.extra, _shorten_branches)


def _add_depth(kind: str, depth: int, scope: str) -> None:
    """Let a ResNet of a base library have the blocks of `BOTTLENECKS`, in this process."""
    with MODELS.switch_scope_and_registry(scope) as registry:
        net = registry.get(kind)
    block, _ = net.arch_settings[50]
    net.arch_settings = {**net.arch_settings, depth: (block, BOTTLENECKS[depth])}


def _shorten_branches(node: Any) -> None:
    """One module a stage, with one block a branch."""
    if 'num_modules' in node:
        node.update(num_modules=1, num_blocks=(1,) * node['num_branches'])


# how they are made small


def _segmentor(cfg: Config, data: Path, work_dir: Path) -> None:
    shrink(cfg, work_dir)
    write_tiny_data(cfg, work_dir.parent / 'data')
    make_shallow(cfg.model, 'mmseg')
    if 'kd' in cfg:
        teacher = cfg.kd.teacher
        model, scope = load_model_config(teacher.pop('config'))
        teacher.model = dict(model, _scope_=scope)
        make_shallow(teacher.model, 'mmseg')


def _pruned_segmentor(cfg: Config, data: Path, work_dir: Path) -> None:
    """Pruned in each of two iterations."""
    _segmentor(cfg, data, work_dir)
    walk(cfg.custom_hooks, lambda node: node.update(interval_iters=1))


def _estimator(cfg: Config, data: Path, work_dir: Path) -> None:
    if not (data / 'people').is_dir():
        write_people(data / 'people')
    shrink_pose(cfg, data / 'people', work_dir)
    make_shallow(cfg.model, 'mmpose')


def _classifier(cfg: Config, data: Path, work_dir: Path) -> None:
    """Four images, one a class, of two a class where a subset is drawn."""
    few = few_shot(cfg)
    folder = images(data, 2 if 'Subset' in cfg.train_dataloader.dataset.type else 1)
    unseen = [f'{loop}_dataloader' for loop in ('val', 'test') if not cfg.get(f'{loop}_dataloader')]
    for name in unseen:
        cfg[name] = copy.deepcopy(cfg.train_dataloader)
    make_shallow(cfg.model, 'mmpretrain')
    shrink_cifar(cfg, folder, work_dir)
    if few:  # two of the four classes
        walk(cfg.train_dataloader.dataset, lambda node: _draw(node, 2))
    teachers = (cfg.get('kd') or {}).get('teacher') or []
    for teacher in teachers if isinstance(teachers, list) else [teachers]:
        make_shallow(teacher.model, 'mmpretrain')
    walk(cfg.get('kd'), _shrink_bank)
    for name in unseen:
        cfg[name] = None


def _distilled(cfg: Config, data: Path, work_dir: Path) -> None:
    """Batches of four images, as some losses compare three or more."""
    _classifier(cfg, data, work_dir)
    walk(cfg.train_dataloader.dataset, lambda node: _draw(node, 2))
    cfg.train_dataloader.batch_size = 4


def _cohort(cfg: Config, data: Path, work_dir: Path) -> None:
    """Batches of four images, of two classes where the config says so."""
    make_shallow(cfg.model, 'mmpretrain')
    cfg.optim_wrapper.optimizer.lr = 1e-3
    each = 4 if few_shot(cfg) else 2
    shrink_cifar(cfg, images(data, each), work_dir)
    walk(cfg.train_dataloader.dataset, lambda node: _draw(node, each))
    cfg.train_dataloader.batch_size = 4
    if cfg.train_dataloader.sampler.type == SAMPLER:
        cfg.train_dataloader.sampler.update(classes_per_batch=2, samples_per_class=2)
    walk(cfg.get('kd'), _shrink_bank)


def _layered(cfg: Config, data: Path, work_dir: Path) -> None:
    """As `_cohort`, with a phase of the meta-optimisation in the first of two iterations."""
    if not cfg.get('val_dataloader'):
        cfg.val_dataloader = copy.deepcopy(cfg.train_dataloader)
    kd = cfg.get('kd') or {}
    if 'meta' in kd:
        kd.meta.every = 2
    if isinstance(kd.get('peers'), list):
        kd.peers = [load_model_config(name)[0] for name in kd.peers]
        for model in kd.peers:
            make_shallow(model, 'mmpretrain')
            walk(model, _four_classes)
    _cohort(cfg, data, work_dir)


def _four_classes(node: Any) -> None:
    if 'num_classes' in node:
        node['num_classes'] = 4


def _draw(node: Any, per_class: int) -> None:
    if node.get('per_class'):
        node['per_class'] = per_class


def few_shot(cfg: Config) -> bool:
    """Let few-shot evaluation do with two of four classes, if it is asked for."""
    if not is_few_shot(cfg):
        return False
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.count = 2
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.update(settings=[(2, 1)], queries=1, episodes=3)
    return True


def is_few_shot(cfg: Config) -> bool:
    """Return whether a config evaluates so."""
    return 'FewShot' in str(cfg.get('val_evaluator'))


def _shrink_bank(node: Any) -> None:
    # at most all of other classes, of which few-shot configs have four
    sizes = dict(MCLBankLoss=(8, 6), LMCLBankLoss=(8, 4), MCLOKDLoss=(8, 4), CRDLoss=(4, 3))
    if node.get('type') in sizes:
        assert node['num_samples'] > node['negatives'] > 0, 'the config says both'
        node['num_samples'], node['negatives'] = sizes[node['type']]


def _paired(cfg: Config, data: Path, work_dir: Path) -> None:
    """Two batches of two pairs of files."""
    if not (data / 'pairs').is_dir():
        write_pairs(data / 'pairs')
    shrink_pairs(cfg, data / 'pairs', work_dir)


def images(data: Path, per_class: int) -> Path:
    """A folder of images of four classes."""
    folder = data / f'images{per_class}'
    if not folder.is_dir():
        write_folder(folder, classes=4, per_class=per_class)
    return folder


def _detector(cfg: Config, data: Path, work_dir: Path) -> None:
    """Of random weights; what the configs load is in test_transfer_recipes.py."""
    root = boxes(data)
    kind = 'bccd' if 'RBC' in str(cfg.train_dataloader) else 'voc0712' if _is_voc(cfg) else 'coco'
    shrink_detection(cfg, root / kind, work_dir)


def _transferred(cfg: Config, data: Path, work_dir: Path) -> None:
    """A file of random weights is where the config says that its backbone's are."""
    init = cfg.model.backbone.get('init_cfg')
    shrink_task = dict(mmdet=_detector, mmseg=_segmentor, mmpose=_estimator)[cfg.default_scope]
    shrink_task(cfg, data, work_dir)
    if init:
        net = MODELS.build(dict(cfg.model.backbone, init_cfg=None, _scope_=cfg.default_scope))
        work_dir.mkdir(parents=True, exist_ok=True)
        file = str(work_dir / 'backbone.pth')
        torch.save(net.state_dict(), file)
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=file)


def boxes(data: Path) -> Path:
    """Folders ``coco``, ``voc0712`` and ``bccd``."""
    from mmdet.datasets import CocoDataset  # behind kdmm, which serves its operators

    if not (data / 'boxes').is_dir():
        write_coco(data / 'boxes/coco', COCO, CocoDataset.METAINFO['classes'])
        write_voc(data / 'boxes/voc0712')
        write_coco(data / 'boxes/bccd', BCCD, BCCD_CLASSES)
    return data / 'boxes'


def _is_voc(cfg: Config) -> bool:
    return 'VOC' in str(cfg.train_dataloader.dataset)


# what they log and leave


def train(cfg: Config, iters: int, scores: set[str]) -> tuple[Any, dict[str, Any]]:
    """Train a small config and check what it has logged and written.

    Args:
        cfg: Its ``experiment_name`` is new in this process.
        iters: So many iterations it must have.
        scores: Tags that must be in the log.

    Returns:
        The runner, and what was logged.

    Raises:
        AssertionError: Says what is wrong with the log or the files.
    """
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == iters, f'{runner.iter} iterations in place of {iters}'
    logged = MessageHub.get_instance(runner.experiment_name).log_scalars
    check_losses(cfg, logged, runner.model)
    check_files(cfg, runner)
    assert scores <= set(logged), f'no {sorted(scores - set(logged))} in the log'
    return runner, logged


def terms_of(cfg: Config, model: Any) -> set[str]:
    """Log names of the losses that a section ``kd`` asks for."""
    kd, kind = cfg.get('kd') or {}, kind_of(cfg)
    if kind == 'MCLMoCo':
        return {f'kd.loss_{part}' for part in ('vcl', 'soft_vcl', 'icl', 'soft_icl')}
    if kind.startswith('HSSAKD'):
        return _terms_of_hssakd(kind, len(staging_of(model.backbone).stage_names))
    found = {f'kd.{name}_loss' for name in peers_of(kd)}
    for name, stages in stages_of(cfg, model).items():
        found |= {f'kd.{name[:-1]}{"_" if name else ""}loss_branches_{stage}' for stage in stages}
    for name, loss in kd.get('losses', {}).items():
        parts = loss.get('weight', 1.0)
        parts = [f'_{part}' for part in parts] if isinstance(parts, dict) else ['']
        found |= {f'kd.loss_{name}{part}' for part in parts}
    return found


def _terms_of_hssakd(kind: str, branches: int) -> set[str]:
    stages = [f'stage{i + 1}' for i in range(branches)]
    joint = {f'kd.loss_joint_{stage}' for stage in stages}
    mutual = {'kd.loss_logits', *(f'kd.loss_{stage}' for stage in stages)}
    peer = {'kd.peer1_loss', *(f'kd.loss_peer1_joint_{stage}' for stage in stages)}
    return dict(HSSAKDTeacher=joint, HSSAKD=mutual, HSSAKDOnline=joint | mutual | peer)[kind]


def check_losses(cfg: Config, logged: dict[str, Any], model: Any) -> None:
    """Exactly the terms of the section, beside the base library's own, and all are finite."""
    losses = {tag.removeprefix('train/') for tag in logged if 'loss' in tag}
    losses = {tag for tag in losses if not tag.startswith('val/')}
    terms = {tag for tag in losses if tag.startswith('kd.')}
    _same('terms in the log', terms, terms_of(cfg, model))
    assert 'loss' in losses, 'no loss in the log'
    if cfg.default_scope == 'mmpretrain':
        named = kind_of(cfg) not in ('', 'MCLMoCo') and cfg.kd.get('task', 1) != 0
        _same('other losses', losses - terms, {'loss', 'head.loss'} if named else {'loss'})
    found = {tag: logged[f'train/{tag}'].data[0] for tag in sorted(losses)}
    assert all(math.isfinite(v) for values in found.values() for v in values), f'{found}'


def check_files(cfg: Config, runner: Any) -> None:
    """Exactly the files that the objective leaves beside the student."""
    kind, peers = kind_of(cfg), set()
    if kind in COHORTS:
        names = peers_of(cfg.kd)
        made = list(objective_of(runner.model).networks())
        assert made == names, f'networks {made} in place of {names}'
        peers = set(names)
    elif kind == 'HSSAKDOnline':
        peers = {'peer1', 'peer1_recalibrated'}
    elif kind == 'MCLMoCo':
        peers = {'peer1'}
    work_dir = Path(cfg.work_dir)
    _same('files of peers', {path.stem for path in work_dir.glob('peer*.pth')}, peers)
    rotated = kind.startswith('HSSAKD') and not cfg.get('load_from')
    there = (work_dir / 'recalibrated.pth').is_file()
    assert there == rotated, f'recalibrated.pth: {there} in place of {rotated}'
    drawn = (work_dir / 'matching.png').is_file()
    assert drawn == (kind == 'LMCL'), f'matching.png: {drawn}'


def _same(what: str, found: set[str], expected: set[str]) -> None:
    assert found == expected, f'{what}: {sorted(found)} in place of {sorted(expected)}'


def _best(cfg: Config) -> set[str]:
    usual = 'few_shot/2way_1shot_cosine' if is_few_shot(cfg) else 'accuracy/top1'
    best = cfg.default_hooks.checkpoint.get('save_best', usual)
    if kind_of(cfg) not in COHORTS:
        return {f'val/{best}'} if cfg.get('val_evaluator') else set()
    others = peers_of(cfg.kd)
    found = {f'val/{best}', *(f'val/{whose}/{best}' for whose in (*others, 'ensemble'))}
    if kind_of(cfg) == 'LMCL':
        found.add('train/kd.meta_objective')  # of a phase
    if cfg.kd.get('branches'):
        found |= {f'val/{whose}stage1/{best}' for whose in ('', *(f'{x}/' for x in others))}
    return found


def _pose_scores(cfg: Config) -> set[str]:
    return (
        {'val/jigsaw/patch_acc', 'val/jigsaw/mre'} if 'Jigsaw' in str(cfg.val_evaluator)
        else {'val/coco/AP'}
    )  # fmt: skip


def _transfer_scores(cfg: Config) -> set[str]:
    scores = dict(mmdet=_box_scores, mmseg=lambda cfg: {'val/mIoU'}, mmpose=_pose_scores)
    return scores[cfg.default_scope](cfg)


def _box_scores(cfg: Config) -> set[str]:
    if _is_voc(cfg):
        return {'val/pascal_voc/mAP'}
    return {'val/coco/bbox_mAP'} | (
        {'val/coco/segm_mAP'} if cfg.model.type == 'MaskRCNN' else set()
    )


FAMILIES = dict(
    segmentors=Family(
        'mmseg',
        ('small/camvid/*.py', 'seg_kd/camvid_*.py', 'quickstart/*.py', 'seg_kd/*.py', 'cirkd/*.py'),
        _segmentor,
        lambda cfg: {'val/mIoU'},
    ),
    estimators=Family(
        'mmpose',
        ('small/pose*/*.py', 'hsjp/*.py'),
        _estimator,
        _pose_scores,
        ('kdmm.ShufflePatches', 'kdmm.Jigsaw'),
    ),
    hssakd=Family(
        'mmpretrain',
        ('small/cifar10/*.py', 'hssakd/*.py'),
        _classifier,
        _best,
        ('kdmm.CIFAR', 'kdmm.StratifiedSubset', *FEW_SHOT),
    ),
    cls_kd=Family(
        'mmpretrain',
        ('cls_kd/*.py',),
        _distilled,
        _best,
        ('kdmm.CIFAR', 'kdmm.StratifiedSubset'),
    ),
    pairs=Family(
        'mmpretrain',
        ('crd/*template.py',),
        _paired,
        _best,
        ('kdmm.BothImages',),
        lambda name: True,  # test_modalities.py
    ),  # fmt: skip
    crd=Family(
        'mmpretrain',
        ('crd/cifar10*.py', 'crd/*.py'),
        _classifier,
        _best,
        (
            'kdmm.CIFAR',
            'kdmm.StratifiedSubset',
            'kdmm.ToLuminance',
            'kdmm.ToChrominance',
            'kdmm.BothImages',
        ),
    ),
    moco=Family(
        'mmpretrain',
        ('mcl/*moco*.py',),
        _classifier,
        _best,
        ('kdmm.CIFARResNet', 'kdmm.StratifiedSubset'),
        lambda name: 'linear' in name,  # test_mcl_moco.py: on a pretrained encoder
    ),
    mcl=Family(
        'mmpretrain',
        ('mcl/cifar10*.py', 'mcl/*.py'),
        _cohort,
        _best,
        ('kdmm.CIFAR', 'kdmm.StratifiedSubset', SAMPLER, *FEW_SHOT),
    ),
    mcl_okd=Family(
        'mmpretrain',
        ('mcl_okd/cifar10*.py', 'mcl_okd/*.py'),
        _cohort,
        _best,
        ('kdmm.CIFAR', 'kdmm.StratifiedSubset', SAMPLER, *FEW_SHOT),
    ),
    lmcl=Family(
        'mmpretrain',
        ('lmcl/cifar10*.py', 'lmcl/*.py'),
        _layered,
        _best,
        ('kdmm.CIFAR', 'kdmm.StratifiedSubset', SAMPLER),
    ),
    pruned_segmentors=Family(
        'mmseg',
        ('pruning/*deeplab*.py',),
        _pruned_segmentor,
        lambda cfg: {'val/mIoU', 'train/zero_filters'},
        ('kdmm.SoftFilterPruningHook',),
    ),
    pruned=Family(
        'mmpretrain',
        ('pruning/cifar10_small*.py', 'pruning/*.py'),
        _classifier,
        lambda cfg: _best(cfg) | ({'train/zero_filters'} if cfg.get('custom_hooks') else set()),
        ('kdmm.CIFAR', 'kdmm.StratifiedSubset', 'kdmm.SoftFilterPruningHook'),
    ),
    detectors=Family(
        'mmdet',
        ('small/bccd/*.py',),
        _detector,
        _box_scores,
    ),
    transfer=Family(
        'mmdet',  # and two others
        ('transfer/*.py',),
        _transferred,
        _transfer_scores,
        ('kdmm.PretrainedBackboneHook',),
        lambda name: True,  # test_transfer_recipes.py: from files of a conversion
    ),
)
#: Config -> its family; the first that takes it.
TABLE: dict[str, Family] = {}
for _family in FAMILIES.values():
    for _name in _family.names:
        TABLE.setdefault(_name, _family)
