"""A few persons in COCO's format, and pose configs shrunk to them."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config

from kdmm.utils.models import without_pretrained

from .tiny_data import LOADERS, walk

INPUT, HEATMAP = (96, 128), (24, 32)  # width, height; strides of 32, a grid of 4x3
PERSONS = 4  # in each split


def write_people(root: Path) -> None:
    """``{train,val}2017/``, their annotations and detections of the val split."""
    (root / 'annotations').mkdir(parents=True)
    for number, split in enumerate(('train2017', 'val2017')):
        (root / split).mkdir()
        random = np.random.default_rng(number)
        images, annotations = [], []
        for person in range(1, PERSONS + 1):
            picture = random.integers(0, 256, (96, 80, 3), dtype=np.uint8)
            cv2.imwrite(str(root / split / f'{person}.jpg'), picture)
            images.append(dict(id=person, file_name=f'{person}.jpg', width=80, height=96))
            joints = np.concatenate([random.integers(20, 60, (17, 2)), np.full((17, 1), 2)], axis=1)
            annotations.append(
                dict(
                    id=person, image_id=person, category_id=1, iscrowd=0, area=2400.0,
                    bbox=[15, 15, 50, 60], keypoints=joints.ravel().tolist(), num_keypoints=17,
                )
            )  # fmt: skip
        content = dict(
            images=images, annotations=annotations, categories=[dict(id=1, name='person')]
        )
        file = root / 'annotations' / f'person_keypoints_{split}.json'
        file.write_text(json.dumps(content))
    detections = [
        dict(image_id=i, category_id=1, bbox=[15, 15, 50, 60], score=0.9)
        for i in range(1, PERSONS + 1)
    ]
    (root / 'detections.json').write_text(json.dumps(detections))


def shrink_pose(cfg: Config, root: Path, work_dir: Path) -> None:
    """Let ``cfg`` run one epoch of two iterations, and a validation, on the files of ``root``."""
    cfg.work_dir = str(work_dir)
    cfg.visualizer.name = str(work_dir)  # there is one of a name in a process
    for key in [key for key in cfg if key.endswith('_pipeline')]:
        cfg.pop(key)
    cfg.model = without_pretrained(cfg.model)
    for part in (cfg.model, *(cfg[loader] for loader in LOADERS)):
        walk(part, _shrink_input)
    for loader in LOADERS:
        cfg[loader].update(num_workers=0, persistent_workers=False)
        _place(cfg[loader].dataset, root)
        if cfg[loader].dataset.get('bbox_file'):
            cfg[loader].dataset.bbox_file = str(root / 'detections.json')
    cfg.train_dataloader.batch_size = 2
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1, save_last=False)
    for key in ('val_evaluator', 'test_evaluator'):
        walk(cfg[key], lambda node: _point_at(node, root))
    for hook in cfg.custom_hooks:
        if hook.type == 'kdmm.JigsawSheetHook':
            hook.interval = 1


def _place(dataset: Any, root: Path) -> None:
    split = 'train' if 'train' in dataset.ann_file else 'val'
    dataset.update(
        data_root=str(root),
        ann_file=f'annotations/person_keypoints_{split}2017.json',
        data_prefix=dict(img=f'{split}2017/'),
    )


def _shrink_input(node: Any) -> None:
    if 'input_size' in node:
        node['input_size'] = INPUT
    if 'heatmap_size' in node:
        node.update(heatmap_size=HEATMAP, sigma=1)


def _point_at(node: Any, root: Path) -> None:
    if 'ann_file' in node:
        node['ann_file'] = str(root / 'annotations' / 'person_keypoints_val2017.json')
