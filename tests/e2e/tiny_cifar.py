"""A few small images in folders of classes, and classification configs shrunk to them."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS

from kdmm.teachers.teacher import load_model_config
from kdmm.utils.models import without_pretrained

from .tiny_data import LOADERS, dataset_nodes, walk

SIZE = 32
#: Transforms of ImageNet to what says their size.
SIZED = dict(RandomResizedCrop='scale', ResizeEdge='scale', Resize='scale', CenterCrop='crop_size')


def write_folder(root: Path, classes: int, per_class: int, size: int = SIZE, seed: int = 0) -> None:
    """``{train,test}/class_<i>/<j>.jpg``: a class is a colour and a direction of waves, in noise.

    Args:
        root: Folder to write in.
        classes: Number of classes.
        per_class: Images of each class in each split.
        size: Side of the images.
        seed: Of colours and noise.
    """
    random = np.random.default_rng(seed)
    colours = random.integers(60, 190, (classes, 3))
    y, x = np.mgrid[:size, :size] / size
    for split in ('train', 'test'):
        for label in range(classes):
            folder = Path(root) / split / f'class_{label:02d}'
            folder.mkdir(parents=True)
            angle = np.pi * label / classes
            waves = 30 * np.sin(8 * np.pi * (x * np.cos(angle) + y * np.sin(angle)))
            for index in range(per_class):
                noise = random.integers(-20, 21, (size, size, 3))
                image = colours[label] + waves[..., None] + noise
                cv2.imwrite(str(folder / f'{index:04d}.jpg'), image.clip(0, 255).astype(np.uint8))


def shrink_cifar(cfg: Config, data_root: Path, work_dir: Path) -> None:
    """Let ``cfg`` run an epoch, or two iterations, and a validation on the files of `write_folder`.

    Networks, taps and wrappers of data sets stay. An epoch has two iterations where it has four to
    eight images. Teachers get random weights, and so does what ``load_from`` names.

    Args:
        cfg: A classification config of any data set; changed in place.
        data_root: Folder of ``train`` and ``test``.
        work_dir: Where the run may write; random weights are written at once.
    """
    classes = len(list((Path(data_root) / 'train').iterdir()))
    cfg.work_dir = str(work_dir)
    for key in [key for key in cfg if key.endswith('_pipeline')]:
        cfg.pop(key)  # the loaders have their copies
    for loader in LOADERS:
        _shrink_loader(cfg[loader], Path(data_root), 'train' if 'train' in loader else 'test')
    for part in (cfg.get('data_preprocessor'), cfg.get('val_evaluator'), cfg.get('test_evaluator')):
        walk(part, lambda node: _reduce_classes(node, classes))
    cfg.model = _shrunk_model(cfg.model, classes)
    _shrink_schedule(cfg)
    kd = cfg.get('kd') or {}
    teachers = kd.get('teacher') or []
    for teacher in teachers if isinstance(teachers, list) else [teachers]:
        _shrink_teacher(teacher, classes)
    frozen = str(kd.get('type')).endswith('HSSAKDTeacher') and not kd.get('joint')
    if frozen or cfg.get('load_from'):
        cfg.load_from = _random_weights(cfg, Path(work_dir))


def write_pairs(root: Path) -> None:
    """``rgb/``, ``depth/`` and ``pairs_train.json``: four images, and their depth of 16 bits.

    Blue is the low byte of the depth of the same pixel, green the high one.
    """
    random, rows = np.random.default_rng(0), []
    for folder in ('rgb', 'depth'):
        (root / folder).mkdir(parents=True)
    for index in range(4):
        depth = random.integers(500, 5000, (40, 48)).astype(np.uint16)
        colours = np.stack([depth % 256, depth // 256, depth % 7], -1).astype(np.uint8)
        cv2.imwrite(str(root / f'depth/{index}.png'), depth)
        cv2.imwrite(str(root / f'rgb/{index}.png'), colours)
        rows.append(dict(img_path=f'{index}.png', img2_path=f'{index}.png'))
    pairs = dict(metainfo=dict(classes=[]), data_list=rows)
    (root / 'pairs_train.json').write_text(json.dumps(pairs))


def shrink_pairs(cfg: Config, root: Path, work_dir: Path) -> None:
    """Let ``cfg`` run an epoch of two iterations on the files of `write_pairs`.

    Args:
        cfg: Of pairs of images, without validation; changed in place.
        root: Folder of the files.
        work_dir: Where the run may write.
    """
    cfg.work_dir = str(work_dir)
    cfg.pop('train_pipeline')  # the loader has its copy
    walk(cfg.train_dataloader, _shrink_transform)
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.data_root = str(root)
    _shrink_schedule(cfg)
    _shrink_teacher(cfg.kd.teacher, classes=4)


def _shrink_loader(loader: Any, root: Path, split: str) -> None:
    walk(loader.dataset, _draw_one)
    for node in dataset_nodes(loader.dataset):
        steps = list(node.pipeline)
        if steps[0].type != 'LoadImageFromFile':  # MMPretrain's CIFAR holds its images
            steps.insert(0, dict(type='LoadImageFromFile'))
        walk(steps, _shrink_transform)
        node.clear()
        node.update(
            type='CustomDataset', data_root=str(root), data_prefix=split, with_label=True,
            pipeline=steps,
        )  # fmt: skip
    with DATASETS.switch_scope_and_registry('mmpretrain') as registry:
        images = len(registry.build(loader.dataset))
    batch_size = min(4, max(2, (images + 1) // 2))
    loader.update(num_workers=0, persistent_workers=False, batch_size=batch_size)


def _draw_one(node: Any) -> None:
    """So many images a class are not there."""
    if node.get('per_class'):
        node['per_class'] = 1


def _shrink_transform(node: Any) -> None:
    name = SIZED.get(str(node.get('type')).removeprefix('mmpretrain.'))
    if name:
        node[name] = SIZE


def _shrunk_model(model: Any, classes: int) -> Any:
    model = without_pretrained(model)
    walk(model, lambda node: _reduce_classes(node, classes))
    return model


def _reduce_classes(node: Any, classes: int) -> None:
    """In heads, preprocessors and metrics; a top-5 of fewer classes cannot be taken."""
    if 'num_classes' in node:
        node['num_classes'] = classes
    if 'topk' in node:
        topk = node['topk'] if isinstance(node['topk'], (list, tuple)) else [node['topk']]
        node['topk'] = tuple(k for k in topk if k <= classes)


def _shrink_schedule(cfg: Config) -> None:
    if cfg.train_cfg.get('max_epochs'):
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
    else:
        cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1, save_last=False)
    # there is one visualizer of a name in a process
    cfg.visualizer = dict(
        type='Visualizer', vis_backends=[dict(type='LocalVisBackend')], name=cfg.work_dir
    )


def _shrink_teacher(teacher: Any, classes: int) -> None:
    """Its config file cannot be changed, so the model is written out."""
    if teacher.get('config'):
        teacher['model'], scope = load_model_config(teacher.pop('config'))
        teacher['model']['_scope_'] = scope
    teacher['model'] = _shrunk_model(teacher['model'], classes)
    teacher.update(checkpoint=None, random=True)


def _random_weights(cfg: Config, work_dir: Path) -> str:
    """A checkpoint of ``cfg.model``."""
    model = MODELS.build(dict(cfg.model, _scope_=cfg.get('default_scope', 'mmpretrain')))
    work_dir.mkdir(parents=True, exist_ok=True)
    path = work_dir / 'random_weights.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return str(path)
