"""The table of our configs: which there are, how each is made small, and what its run must log."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config

from kdmm.engine import load_config
from kdmm.models.staging import staging_of
from kdmm.teachers.teacher import load_model_config

from .brief import forget_imports
from .tiny_boxes import BCCD, BCCD_CLASSES, COCO, shrink_detection, write_coco, write_voc
from .tiny_cifar import shrink_cifar, write_folder
from .tiny_data import shrink, walk, write_tiny_data
from .tiny_pose import shrink_pose, write_people

CONFIGS = Path(__file__).parents[2] / 'configs'
SAMPLER = 'kdmm.PKSampler'
FEW_SHOT = ('kdmm.ClassSubset', 'kdmm.FewShotMetric', 'kdmm.FeaturesHook')
#: Kind of a deep network, with its depth or block, to what makes it shallow and changes no width.
SHALLOW: dict[tuple[str, str], dict[str, Any]] = {
    ('kdmm.CIFARResNet', 'basic'): dict(depth=8),
    ('kdmm.CIFARResNet', 'bottleneck'): dict(depth=11),
    ('ResNet', '34'): dict(depth=18),
    **{('ResNet', depth): dict(depth=50) for depth in ('101', '152')},
    ('ResNetV1c', '101'): dict(depth=50),
    **{('kdmm.CIFARWideResNet', depth): dict(depth=10) for depth in ('16', '28', '40')},
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
        left_out: Its configs that are not trained here.
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


def make_shallow(model: Any) -> None:
    """Fewer blocks of the same kind and width."""
    backbone = model.backbone
    what = backbone.get('block', backbone.get('depth', backbone.get('num_layers')))
    backbone.update(SHALLOW.get((backbone.type, str(what)), {}))


# how they are made small


def _segmentor(cfg: Config, data: Path, work_dir: Path) -> None:
    shrink(cfg, work_dir)
    write_tiny_data(cfg, work_dir.parent / 'data')
    make_shallow(cfg.model)
    if 'kd' in cfg:
        teacher = cfg.kd.teacher
        model, scope = load_model_config(teacher.pop('config'))
        teacher.model = dict(model, _scope_=scope)
        make_shallow(teacher.model)


def _estimator(cfg: Config, data: Path, work_dir: Path) -> None:
    if not (data / 'people').is_dir():
        write_people(data / 'people')
    shrink_pose(cfg, data / 'people', work_dir)
    make_shallow(cfg.model)


def _classifier(cfg: Config, data: Path, work_dir: Path) -> None:
    """Four images, one a class, of two a class where a subset is drawn."""
    few = few_shot(cfg)
    folder = images(data, 2 if 'Subset' in cfg.train_dataloader.dataset.type else 1)
    unseen = [f'{loop}_dataloader' for loop in ('val', 'test') if not cfg.get(f'{loop}_dataloader')]
    for name in unseen:
        cfg[name] = copy.deepcopy(cfg.train_dataloader)
    make_shallow(cfg.model)
    shrink_cifar(cfg, folder, work_dir)
    if few:  # two of the four classes
        walk(cfg.train_dataloader.dataset, lambda node: _draw(node, 2))
    teachers = (cfg.get('kd') or {}).get('teacher') or []
    for teacher in teachers if isinstance(teachers, list) else [teachers]:
        make_shallow(teacher.model)
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
    make_shallow(cfg.model)
    cfg.optim_wrapper.optimizer.lr = 1e-3
    each = 4 if few_shot(cfg) else 2
    shrink_cifar(cfg, images(data, each), work_dir)
    walk(cfg.train_dataloader.dataset, lambda node: _draw(node, each))
    cfg.train_dataloader.batch_size = 4
    if cfg.train_dataloader.sampler.type == SAMPLER:
        cfg.train_dataloader.sampler.update(classes_per_batch=2, samples_per_class=2)
    walk(cfg.get('kd'), _shrink_bank)


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
    sizes = dict(MCLBankLoss=(8, 6), MCLOKDLoss=(8, 6), CRDLoss=(4, 3))  # all of other classes
    if node.get('type') in sizes:
        assert node['num_samples'] > node['negatives'] > 0, 'the config says both'
        node['num_samples'], node['negatives'] = sizes[node['type']]


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


# what they log


def terms_of(cfg: Config, model: Any) -> set[str]:
    """Log names of the losses that a section ``kd`` asks for."""
    kd, kind = cfg.get('kd') or {}, kind_of(cfg)
    if kind == 'MCLMoCo':
        return {f'kd.loss_{part}' for part in ('vcl', 'soft_vcl', 'icl', 'soft_icl')}
    if kind.startswith('HSSAKD'):
        return _terms_of_hssakd(kind, len(staging_of(model.backbone).stage_names))
    found = {f'kd.peer{i}_loss' for i in range(kd.get('peers', 1)) if i != kd.get('keep', 0)}
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
    assert {tag for tag in losses if tag.startswith('kd.')} == terms_of(cfg, model)
    assert 'loss' in losses
    if cfg.default_scope == 'mmpretrain':
        named = kind_of(cfg) not in ('', 'MCLMoCo') and cfg.kd.get('task', 1) != 0
        own = {'loss', 'head.loss'} if named else {'loss'}
        assert {tag for tag in losses if not tag.startswith('kd.')} == own
    assert all(math.isfinite(v) for tag in losses for v in logged[f'train/{tag}'].data[0])


def _best(cfg: Config) -> set[str]:
    usual = 'few_shot/2way_1shot_cosine' if is_few_shot(cfg) else 'accuracy/top1'
    best = cfg.default_hooks.checkpoint.get('save_best', usual)
    if kind_of(cfg) != 'Cohort':
        return {f'val/{best}'} if cfg.get('val_evaluator') else set()
    others = [f'peer{i}' for i in range(cfg.kd.peers) if i != cfg.kd.get('keep', 0)]
    return {f'val/{best}', *(f'val/{whose}/{best}' for whose in (*others, 'ensemble'))}


def _pose_scores(cfg: Config) -> set[str]:
    return (
        {'val/jigsaw/patch_acc', 'val/jigsaw/mre'} if 'Jigsaw' in str(cfg.val_evaluator)
        else {'val/coco/AP'}
    )  # fmt: skip


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
        lambda name: 'template' in name,  # test_views.py runs it, on pairs of files
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
        ('kdmm.CIFAR', 'kdmm.StratifiedSubset', SAMPLER),
    ),
    detectors=Family(
        'mmdet',
        ('small/bccd/*.py', 'transfer/*.py'),
        _detector,
        _box_scores,
        ('kdmm.PretrainedBackboneHook',),
        lambda name: name.startswith('transfer/'),  # test_transfer_recipes.py: from their files
    ),
)
#: Config -> its family; the first that takes it.
TABLE: dict[str, Family] = {}
for _family in FAMILIES.values():
    for _name in _family.names:
        TABLE.setdefault(_name, _family)
