"""Classes that occur, from annotations alone."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kdmm.datasets import label_survey
from kdmm.datasets.label_survey import survey_labels, survey_warning


class Listed:
    """A data set that is a list of annotations."""

    def __init__(self, *infos: dict[str, Any], **metainfo: Any) -> None:
        self.infos, self.metainfo = infos, metainfo

    def __len__(self) -> int:
        return len(self.infos)

    def get_data_info(self, index: int) -> dict[str, Any]:
        return self.infos[index]


def boxes(*labels: int, ignored: tuple[int, ...] = ()) -> dict[str, Any]:
    kept = [dict(bbox_label=label, ignore_flag=0) for label in labels]
    return dict(instances=kept + [dict(bbox_label=label, ignore_flag=1) for label in ignored])


@pytest.mark.parametrize(
    ('infos', 'absent'),
    [
        ([dict(gt_label=0), dict(gt_label=2)], [1]),
        ([dict(gt_label=np.int64(1)), dict(gt_label=0), dict(gt_label=2)], []),
        ([dict(gt_label=[0, 1]), dict(gt_label=[1])], [2]),  # several classes an image
        ([boxes(0, 0), boxes(1)], [2]),
        ([boxes(0, 1, ignored=(2,)), boxes()], [2]),
    ],
)
def test_classes_of_images_and_boxes(infos, absent):
    survey = survey_labels(Listed(*infos, classes=('x', 'y', 'z')))
    assert survey.absent() == absent and survey.sampled == len(infos)
    said = survey_warning(survey, 'train_dataloader')
    names = ', '.join(f'{label} ({"xyz"[label]})' for label in absent)
    assert said.endswith(f'(of {len(infos)}): {names}') if absent else said == ''


def test_joints_that_are_never_labelled():
    names = dict(enumerate(('nose', 'hip', 'knee')))
    seen = dict(keypoints_visible=np.array([[1, 0, 0]]))
    both = dict(keypoints_visible=np.array([[[0, 1], [1, 1], [0, 1]]]))  # with weights
    survey = survey_labels(Listed(seen, both, keypoint_id2name=names))
    assert survey_warning(survey, 'x').startswith('x: 1 of 3 joints occur in none of the 2 persons')
    assert '2 (knee)' in survey_warning(survey, 'x')
    blank = dict(keypoints_visible=np.zeros((1, 3)))  # persons without joints
    assert survey_warning(survey_labels(Listed(blank, keypoint_id2name=names)), 'x') == ''


@pytest.mark.parametrize(
    'silent',
    [
        None,
        [1, 2],
        SimpleNamespace(get_data_info=dict),
        Listed(classes=('x',)),
        Listed(dict(gt_label=0)),
        Listed(dict(img_path='a.png'), classes=('x',)),
        Listed(dict(gt_label='words'), classes=('x',)),
        Listed(dict(instances=[3]), classes=('x',)),
    ],
)
def test_data_sets_that_do_not_tell(silent):
    assert survey_labels(silent) is None


def test_many_absent_classes_are_shortened():
    said = survey_warning(
        survey_labels(Listed(dict(gt_label=0), classes=list(map(str, range(40))))), 'x'
    )
    assert '39 of 40 classes' in said and said.endswith('10 (10) and 29 more')


@pytest.mark.parametrize('total', [1, 7, 500])
def test_indices_are_spread_over_all(total):
    found = label_survey._spread(total, 100)
    assert len(found) == len(set(found)) == min(total, 100) and set(found) <= set(range(total))
    if total == 500:
        assert len({index // 100 for index in found[:20]}) == 5  # however early one stops
        assert {index % 10 for index in found} == set(range(10))  # classes that take turns


def test_it_ends_when_all_were_seen(monkeypatch):
    infos = [dict(gt_label=i % 2) for i in range(1000)]
    assert survey_labels(Listed(*infos, classes=('x', 'y'))).sampled == 51
    monkeypatch.setattr(label_survey, 'ANNOTATIONS', 60)
    assert survey_labels(Listed(*infos, classes=('x', 'y', 'z'))).sampled == 60


def test_training_images_without_any_label():
    said = 'train_dataloader: no label in any of the 2 images looked at (of 2)'
    survey = survey_labels(Listed(boxes(), boxes(ignored=(1,)), classes=['a', 'b']))
    assert survey_warning(survey, 'train_dataloader') == said
    assert survey_warning(survey, 'test_dataloader') == ''  # a test set may hide its labels
