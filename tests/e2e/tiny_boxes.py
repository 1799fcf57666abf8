"""A few images with boxes in COCO's and in VOC's format, and detection configs shrunk to them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from mmengine.config import Config

from .tiny_data import LOADERS, dataset_nodes, walk

SIZE = (96, 64)  # width, height
IMAGES = 4  # in each split
BOXES = [(6, 8, 46, 44), (50, 10, 90, 56)]  # x1, y1, x2, y2
COCO = dict(instances_train2017='train2017', instances_val2017='val2017')
BCCD = dict(instances_train='train', instances_val='val', instances_test='test')
BCCD_CLASSES = ('RBC', 'WBC', 'Platelets')
VOC_CLASSES = ('dog', 'person')


def draw(path: Path, number: int) -> None:
    """Noise, in which each box is of a brightness of its own."""
    random = np.random.default_rng(number)
    image = random.integers(0, 60, (SIZE[1], SIZE[0], 3))
    for index, (left, top, right, bottom) in enumerate(BOXES):
        image[top:bottom, left:right] += 80 + 80 * index
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image.astype(np.uint8))


def write_coco(root: Path, splits: dict[str, str], classes: Sequence[str]) -> None:
    """``annotations/<name>.json`` and the images of its folder, for each of ``splits``.

    Boxes are of the first classes; a metric wants to know all that a network can name.
    """
    for name, folder in splits.items():
        images, annotations = [], []
        for number in range(1, IMAGES + 1):
            draw(root / folder / f'{number}.jpg', number)
            images.append(dict(id=number, file_name=f'{number}.jpg', width=SIZE[0], height=SIZE[1]))
            for index, (left, top, right, bottom) in enumerate(BOXES):
                corners = [left, top, right, top, right, bottom, left, bottom]
                annotations.append(
                    dict(
                        id=2 * number + index, image_id=number, category_id=index + 1,
                        bbox=[left, top, right - left, bottom - top], iscrowd=0,
                        area=(right - left) * (bottom - top), segmentation=[corners],
                    )
                )  # fmt: skip
        known = [dict(id=number, name=name) for number, name in enumerate(classes, 1)]
        content = dict(images=images, annotations=annotations, categories=known)
        file = root / 'annotations' / f'{name}.json'
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))


def write_voc(root: Path) -> None:
    """``VOC2007`` with trainval and test (one image), ``VOC2012`` with trainval: half of all."""
    numbers = [str(number) for number in range(1, IMAGES // 2 + 1)]
    for year, splits in (('VOC2007', ('trainval', 'test')), ('VOC2012', ('trainval',))):
        (root / year / 'Annotations').mkdir(parents=True)
        (root / year / 'ImageSets/Main').mkdir(parents=True)
        for number in numbers:
            draw(root / year / 'JPEGImages' / f'{number}.jpg', int(number))
            write_xml(root / year / 'Annotations' / f'{number}.xml')
        for split in splits:
            # of several images MMDetection computes mAP in forked processes, and a process of
            # threads, as this one is, may leave them a lock that nobody opens
            listed = numbers[:1] if split == 'test' else numbers
            (root / year / 'ImageSets/Main' / f'{split}.txt').write_text('\n'.join(listed))


def write_xml(path: Path) -> None:
    """The boxes as VOC writes them."""
    tree = ElementTree.Element('annotation')
    size = ElementTree.SubElement(tree, 'size')
    for key, value in dict(width=SIZE[0], height=SIZE[1], depth=3).items():
        ElementTree.SubElement(size, key).text = str(value)
    for name, box in zip(VOC_CLASSES, BOXES, strict=True):
        thing = ElementTree.SubElement(tree, 'object')
        ElementTree.SubElement(thing, 'name').text = name
        ElementTree.SubElement(thing, 'difficult').text = '0'
        place = ElementTree.SubElement(thing, 'bndbox')
        for key, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box, strict=True):
            ElementTree.SubElement(place, key).text = str(value)
    ElementTree.ElementTree(tree).write(path)


def shrink_detection(cfg: Config, root: Path, work_dir: Path) -> None:
    """Let ``cfg`` run two iterations and a validation on the files of ``root``.

    Args:
        cfg: Of COCO, VOC or BCCD; changed in place. Networks, losses and wrappers stay.
        root: Holds the layout that the config's data set expects.
        work_dir: Where the run may write.
    """
    cfg.work_dir = str(work_dir)
    for key in [key for key in cfg if key.endswith('_pipeline')]:
        cfg.pop(key)  # the loaders have their copies
    for loader in LOADERS:
        cfg[loader].update(num_workers=0, persistent_workers=False)
        for node in dataset_nodes(cfg[loader].dataset):
            node.data_root = f'{root}/'
            walk(node.pipeline, _shrink_transform)
    walk(cfg.train_dataloader, lambda node: node.update(times=1) if 'times' in node else None)
    cfg.train_dataloader.batch_size = 2
    for key in ('val_evaluator', 'test_evaluator'):
        file = cfg[key].get('ann_file')
        if file:
            cfg[key].ann_file = str(root / 'annotations' / Path(file).name)
    walk(cfg.model, _shrink_proposals)
    if cfg.train_cfg.get('max_epochs'):
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
    else:
        cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1, save_last=False)
    cfg.visualizer.name = str(work_dir)  # there is one of a name in a process


def _shrink_transform(node: Any) -> None:
    if node.get('type') == 'Resize':
        node['scale'] = SIZE


def _shrink_proposals(node: Any) -> None:
    """Fewer boxes at each step; with random weights hundreds pass."""
    for key, most in (('nms_pre', 100), ('max_per_img', 20)):
        if key in node:
            node[key] = most
    if 'score_thr' in node:
        node['score_thr'] = 0.0  # COCO's metric says nothing where nothing is found
    if node.get('type') == 'RandomSampler':
        node['num'] = 16
