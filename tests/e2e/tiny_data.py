"""Data sets of a few small images, and configs shrunk to them.

The layout is read from the config itself (folders, suffixes, lists, class count), so a new data
set that derives from mmseg's ``BaseSegDataset`` needs nothing here.
"""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from kdmm.utils.models import without_pretrained

IMAGE_SIZE = (80, 112)  # height, width
CROP_SIZE = (64, 64)
IMAGES_PER_SPLIT = 4
IGNORE = 255
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
#: Loss to what makes it small; a discriminator cannot read the 8x8 logits of a tiny crop.
SMALLER = dict(
    CIRKDMemoryLoss=dict(pixel_size=64, region_size=16),
    CIRKDChannelLoss=dict(queue_size=64, per_step=16, keys=32),
    AdversarialLoss=dict(width=8, connector=dict(type='Resize', to=(64, 64))),
)


def dataset_nodes(node: Any) -> Iterator[ConfigDict]:
    """The leaf data sets below ``node``, wrappers such as ``ConcatDataset`` opened."""
    if 'datasets' in node:
        for child in node.datasets:
            yield from dataset_nodes(child)
    elif 'dataset' in node:
        yield from dataset_nodes(node.dataset)
    else:
        yield node


def write_tiny_data(cfg: Config, root: Path) -> None:
    """Write the files that every data set of ``cfg`` expects, and point ``data_root`` at them.

    Args:
        cfg: Changed in place.
        root: Folder to write in.
    """
    for loader in LOADERS:
        for node in dataset_nodes(cfg[loader].dataset):
            node.data_root = str(root)
            _write_split(node, root, cfg.model.decode_head.num_classes)


def shrink(cfg: Config, work_dir: Path, max_iters: int = 2) -> None:
    """Let ``cfg`` run in seconds on one CPU core, without any download.

    Crops, image sizes, loaders, schedule and queues become small, the teacher random; the
    networks, losses, taps and class counts stay.

    Args:
        cfg: Changed in place.
        work_dir: Where the run may write.
        max_iters: Iterations; one validation follows.
    """
    cfg.work_dir = str(work_dir)
    for key in [key for key in cfg if key.endswith('_pipeline')]:
        cfg.pop(key)  # the loaders have their copies, and printing a config takes its time
    cfg.model.data_preprocessor.size = CROP_SIZE
    if 'size' in cfg.get('data_preprocessor', {}):
        cfg.data_preprocessor.size = CROP_SIZE
    for loader in LOADERS:
        cfg[loader].update(num_workers=0, persistent_workers=False)
        for node in dataset_nodes(cfg[loader].dataset):
            walk(node.pipeline, _shrink_transform)
    cfg.train_dataloader.batch_size = 2
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
    cfg.default_hooks.checkpoint = dict(
        type='CheckpointHook', by_epoch=False, interval=-1, save_last=False
    )
    cfg.default_hooks.logger.interval = 1
    cfg.model = without_pretrained(cfg.model)
    if 'kd' in cfg:
        cfg.kd.teacher.update(checkpoint=None, random=True)
        for loss in cfg.kd.losses.values():
            loss.update(SMALLER.get(loss.type.removeprefix('kdmm.'), {}))


def walk(node: Any, visit: Callable[[Any], None]) -> None:
    """Call ``visit`` on every dict below ``node``, itself included."""
    if isinstance(node, dict):
        visit(node)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            walk(child, visit)


def _shrink_transform(node: Any) -> None:
    kind = node.get('type')
    if kind == 'RandomCrop':
        node['crop_size'] = CROP_SIZE
    elif kind in ('Resize', 'RandomResize') and 'scale' in node:
        node['scale'] = IMAGE_SIZE[::-1]
    elif kind == 'RandomChoice':
        node['transforms'] = node['transforms'][::15]
    elif kind == 'RandomChoiceResize':
        node['scales'] = [IMAGE_SIZE[::-1]]
    elif kind == 'Pad' and 'size' in node:
        node['size'] = CROP_SIZE


def _write_split(node: ConfigDict, root: Path, num_classes: int) -> None:
    images, labels = (root / node.data_prefix[key] for key in ('img_path', 'seg_map_path'))
    suffixes = [_argument(node, key) for key in ('img_suffix', 'seg_map_suffix')]
    names = [f'{labels.name}_{index}' for index in range(IMAGES_PER_SPLIT)]
    lowest = 1 if _argument(node, 'reduce_zero_label') else 0
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        image, label = _sample(seed, num_classes, lowest)
        cv2.imwrite(str(images / (name + suffixes[0])), image)
        cv2.imwrite(str(labels / (name + suffixes[1])), label)
    if node.get('ann_file'):
        (root / node.ann_file).parent.mkdir(parents=True, exist_ok=True)
        (root / node.ann_file).write_text('\n'.join(names) + '\n')


def _argument(node: ConfigDict, name: str) -> Any:
    """An argument of the data set: from the config, or the default of its class."""
    if name in node:
        return node[name]
    with DATASETS.switch_scope_and_registry(node.get('_scope_', 'mmseg')) as registry:
        found = registry.get(node.type)
    for cls in found.__mro__:
        parameter = inspect.signature(cls.__init__).parameters.get(name)
        if parameter is not None:
            return parameter.default
    raise KeyError(f'{node.type} has no argument {name}')


def _sample(seed: int, num_classes: int, lowest: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and label (H, W): 8x8 tiles of random classes, noise, some ignored."""
    rng = np.random.default_rng(seed)
    height, width = IMAGE_SIZE
    tiles = rng.integers(lowest, lowest + num_classes, (height // 8, width // 8), dtype=np.uint8)
    label = tiles.repeat(8, axis=0).repeat(8, axis=1)
    noise = rng.integers(0, 64, (height, width, 3), dtype=np.uint8)
    image = noise + (label[..., None].astype(np.int64) * (37, 59, 83) % 192).astype(np.uint8)
    label[:8, :16] = 0 if lowest else IGNORE
    return image, label
