"""Students that mix their images are refused when they are built."""

from typing import Any

import pytest
from torch import nn

pytest.importorskip('mmpretrain')

from kdmm.distillers import distill  # noqa: E402
from kdmm.distillers.refusals import refuse_mixing  # noqa: E402
from tests.distillers.cohort.networks import DML, MCL, cohort  # noqa: E402
from tests.distillers.hssakd.classifiers import (  # noqa: E402
    build,
    classifier_config,
    random_teacher,
)
from tests.errors import refused  # noqa: E402

AUGMENTS = dict(augments=dict(type='Mixup', alpha=0.8))
KEY = 'model.data_preprocessor.batch_augments'
CRD = dict(type='CRDLoss', on='embedding', num_samples=6, dim=4, negatives=2)
LABELLED = dict(problem='needs one class an image', fix=('Mixup', 'train_cfg'))

#: Both ways in which MMPretrain's configs ask for it.
WAYS: dict[str, dict[str, Any]] = dict(
    preprocessor=dict(data_preprocessor=dict(batch_augments=AUGMENTS)),
    train_cfg=dict(train_cfg=AUGMENTS),
)


def student(**changes: Any) -> dict[str, Any]:
    return {**classifier_config(), **changes}


def distilled(loss: dict[str, Any], model: dict[str, Any]) -> nn.Module:
    taps = dict(logits='head.fc.out', embedding='head.fc.in')
    return distill(model, teacher=random_teacher(), taps=taps, losses=dict(x=loss))


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('loss', [
    CRD, dict(type='DKDLoss', on='logits'),
], ids=lambda x: x['type'])  # fmt: skip
def test_a_loss_that_reads_labels(loss, way):
    told = dict(LABELLED, problem=(f'{loss["type"]} of kd.losses.x', LABELLED['problem']))
    with refused(key=KEY, **told):
        distilled(loss, student(**WAYS[way]))
    distilled(loss, student())


def test_a_loss_that_reads_numbers():
    unlabelled = dict(CRD, mode='unlabelled')
    with refused(key=KEY, problem='CRDLoss of kd.losses.x remembers each image by its number'):
        distilled(unlabelled, student(**WAYS['train_cfg']))
    distilled(unlabelled, student())


def test_others_are_trained_on_mixed_images():
    distilled(dict(type='KDLoss', on='logits'), student(**WAYS['preprocessor']))
    cohort(2, student(**WAYS['preprocessor']), losses=DML)


@pytest.mark.parametrize('options', [dict(losses=MCL), dict(branches=True)], ids=list)
def test_cohorts(options):
    with refused(key=KEY, **LABELLED):
        cohort(2, student(**WAYS['preprocessor']), **options)
    cohort(2, student(), **options)


def test_self_supervised_branches():
    with refused(key=KEY, problem='joint label', fix='Mixup'):
        build('HSSAKDOnline', student(**WAYS['train_cfg']))


def test_labels_that_are_made_soft():
    soft = student(data_preprocessor=dict(to_onehot=True, num_classes=3))
    with refused(key='model.data_preprocessor.to_onehot', got=True, problem='DKDLoss', fix='out'):
        distilled(dict(type='DKDLoss', on='logits'), soft)


def test_what_mixes_nothing():
    """MMSegmentation's ``batch_augments`` change sizes; a network may have no preprocessor."""
    model = build('', student())
    model.data_preprocessor = nn.Identity()
    model.data_preprocessor.batch_augments = nn.ModuleList([nn.Identity()])
    refuse_mixing(model, 'it cannot')
    refuse_mixing(nn.Linear(1, 1), 'it cannot')
