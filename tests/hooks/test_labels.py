from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdmm.engine import Runner
from kdmm.errors import ConfigError
from kdmm.hooks import LabelRangeHook
from tests.engine.tiny_run import config


def model(num_classes: int | None = 3, **facts: int) -> nn.Module:
    made = nn.Module()
    made.decode_head = nn.Module()
    if num_classes is not None:
        made.decode_head.num_classes = num_classes
    for name, value in facts.items():
        setattr(made.decode_head, name, value)
    return made


def batch(*values: int, dtype: torch.dtype = torch.int64) -> dict:
    maps = [torch.tensor([[[0, value]]]).to(dtype) for value in values]
    return dict(
        data_samples=[
            SimpleNamespace(gt_sem_seg=SimpleNamespace(data=m), img_path=f'image_{i}.png')
            for i, m in enumerate(maps)
        ]
    )


def look(data: object, **facts: object) -> None:
    hook = LabelRangeHook()
    hook.before_train(SimpleNamespace(model=model(**facts)))
    hook.before_train_iter(None, 0, data)


@pytest.mark.parametrize('value', [3, -1, 254, 256])
def test_value_classes_and_image_are_named(value):
    with pytest.raises(ConfigError) as info:
        look(batch(2, value))
    message = str(info.value)
    assert f'label {value} in the annotation of image_1.png' in message
    assert '3 classes (0 to 2) and ignores 255' in message and 'reduce_zero_label' in message


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int64])
def test_classes_and_the_ignored_label_pass(dtype):
    look(batch(0, 2, 255, dtype=dtype))


def test_the_head_says_what_is_ignored():
    look(batch(7), ignore_index=7)
    with pytest.raises(ConfigError, match='label 255'):
        look(batch(255), ignore_index=7)


@pytest.mark.parametrize(
    'data', [None, [], {}, dict(data_samples=[SimpleNamespace()]), dict(data_samples=None)]
)
def test_batches_without_label_maps_pass(data):
    look(data)


def test_a_model_that_says_no_number_is_not_judged():
    look(batch(99), num_classes=None)


def test_in_a_run_it_comes_before_the_loss(tmp_path):
    cfg = config(tmp_path, kd=None)
    cfg.model.type = 'kdmm.TinySegmentor'
    cfg.train_dataloader.dataset.label = 9
    with pytest.raises(ConfigError, match=r'label 9 in the annotation of \d\.png'):
        Runner.from_cfg(cfg).train()


def classes(*values: int) -> dict:
    labels = [torch.tensor([value]) for value in values]
    return dict(data_samples=[SimpleNamespace(gt_label=x, img_path='a.png') for x in labels])


def look_at_classes(*values: int) -> None:
    classifier = nn.Module()
    classifier.head = nn.Module()
    classifier.head.num_classes = 3
    hook = LabelRangeHook()
    hook.before_train(SimpleNamespace(model=classifier))
    hook.before_train_iter(None, 0, classes(*values))


@pytest.mark.parametrize('value', [3, -1, -25, 255])
def test_labels_of_images_are_looked_at_too(value):
    look_at_classes(0, 2, -100)
    with pytest.raises(ConfigError, match=f'label {value} in the annotation of a.png'):
        look_at_classes(0, value)
