from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kdmm.engine import Runner
from kdmm.hooks import LabelRangeHook
from tests.engine.tiny_run import config, validated
from tests.errors import refused


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
    told = f'label {value} in the annotation of image_1.png', '3 classes (0 to 2) and ignores 255'
    with refused(problem=told, fix='reduce_zero_label'):
        look(batch(2, value))


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int64])
def test_classes_and_the_ignored_label_pass(dtype):
    look(batch(0, 2, 255, dtype=dtype))


def test_the_head_says_what_is_ignored():
    look(batch(7), ignore_index=7)
    with refused(problem='label 255'):
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
    with refused(problem=('label 9 in the annotation of', '.png')):
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
    with refused(problem=f'label {value} in the annotation of a.png'):
        look_at_classes(0, value)


# boxes


def boxes(*values: int) -> dict:
    instances = SimpleNamespace(labels=torch.tensor(values))
    return dict(data_samples=[SimpleNamespace(gt_instances=instances, img_path='a.png')])


def detector(kind: type = nn.Module, two_stages: bool = False) -> nn.Module:
    made = owner = nn.Module()
    if two_stages:
        made.rpn_head, made.roi_head = nn.Module(), nn.Module()
        made.rpn_head.num_classes, owner = 1, made.roi_head
    owner.bbox_head = kind()
    owner.bbox_head.num_classes = 3
    return made


@pytest.mark.parametrize('two_stages', [False, True])
def test_labels_of_boxes_are_looked_at_too(two_stages):
    """MMDetection takes the label after the last for background."""
    hook = LabelRangeHook()
    hook.before_train(SimpleNamespace(model=detector(two_stages=two_stages)))
    hook.before_train_iter(None, 0, boxes(0, 2))
    hook.before_train_iter(None, 0, boxes())
    with refused(problem='label 3 in the annotation of a.png'):
        hook.before_train_iter(None, 0, boxes(0, 3))


def test_a_region_proposal_network_has_no_classes():
    hook = LabelRangeHook()
    hook.before_train(SimpleNamespace(model=detector(type('RPNHead', (nn.Module,), {}))))
    hook.before_train_iter(None, 0, boxes(0, 79))


# validation and test


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_validation_and_test(stage):
    metrics = [SimpleNamespace(ignore_index=9), SimpleNamespace()]
    evaluator = SimpleNamespace(metrics=metrics)
    hook = LabelRangeHook()
    hook.before_train(SimpleNamespace(model=model()))
    before, look = (getattr(hook, f'before_{stage}{end}') for end in ('', '_iter'))
    before(SimpleNamespace(model=model(), **{f'{stage}_evaluator': evaluator}))
    look(None, 0, batch(2, 255, 9))  # 9: what the metric ignores
    with refused(problem='label 3 in the annotation of image_0.png'):
        look(None, 0, batch(3))
    with refused(problem='label 9'):  # what a loss would read
        hook.before_train_iter(None, 0, batch(9))


def test_in_a_run_validation_stops_before_the_metric(tmp_path):
    cfg = validated(config(tmp_path, kd=None, model__type='kdmm.TinySegmentor'))
    cfg.val_dataloader.dataset.label = 7
    with refused(problem=('label 7 in the annotation of', '.png')):
        Runner.from_cfg(cfg).train()


# before the first iteration


class Told:
    """A data set that tells its annotations."""

    metainfo = dict(classes=('cat', 'dog', 'fox'))

    def __init__(self, *labels: int) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def get_data_info(self, index: int) -> dict:
        return dict(gt_label=self.labels[index], img_path=f'{index}.png')


def first_look(stage: str, **data: Told) -> list[str]:
    """The warnings."""
    classifier, said = nn.Module(), []
    classifier.head = nn.Module()
    classifier.head.num_classes = 3
    loops = {
        f'{name}_loop': SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset))
        for name, dataset in data.items()
    }
    logger = SimpleNamespace(warning=said.append)
    hook = LabelRangeHook()
    getattr(hook, f'before_{stage}')(SimpleNamespace(model=classifier, logger=logger, **loops))
    return said


def test_classes_that_never_occur_are_told_once_a_data_set():
    (train, val) = first_look('train', train=Told(0, 1), val=Told(2, 2))
    assert train.startswith('train_dataloader: 1 of 3 classes') and train.endswith(': 2 (fox)')
    assert val.startswith('val_dataloader: 2 of 3') and val.endswith(': 0 (cat), 1 (dog)')
    assert first_look('train', train=Told(0, 1, 2)) == []
    (test,) = first_look('test', test=Told(0, 1), train=Told(0))
    assert test.startswith('test_dataloader: ')


@pytest.mark.parametrize('stage', ['train', 'val'])
def test_a_label_that_is_no_class_is_found_before_training(stage):
    with refused(key=f'{stage}_dataloader', problem='label 5 in the annotation of 1.png'):
        first_look('train', **{stage: Told(0, 5, 1, 2)})


def test_other_processes_do_not_look(monkeypatch):
    monkeypatch.setattr('kdmm.hooks.labels.is_main_process', lambda: False)
    assert first_look('train', train=Told(0)) == []
