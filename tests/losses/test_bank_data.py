"""Banks belong to the images that they were filled from: a resumed run has the same data set."""

from typing import Any

import pytest
import torch
from mmengine.dataset import RepeatDataset

from kdmm.losses import CRDLoss, MCLBankLoss, MCLOKDLoss
from kdmm.losses.bank import BankLoss
from tests.datasets.labelled import LabelsOnly
from tests.errors import refused

KINDS: dict[str, Any] = dict(
    mcl=lambda **options: MCLBankLoss((2, 2), **options),
    okd=lambda **options: MCLOKDLoss((2, 2), **options),
    crd=lambda **options: CRDLoss(2, 2, **options),
)


class Six(LabelsOnly):
    """Six images whose numbers begin at ``first``."""

    METAINFO = dict(classes=('ape', 'bee', 'cat'))
    LABELS = [0, 1, 2, 0, 1, 2]

    def __init__(self, first: int = 0, **options: Any) -> None:
        self.first = first
        super().__init__(**options)

    def get_data_info(self, idx: int) -> dict:
        info = super().get_data_info(idx)
        return {**info, 'sample_idx': info['sample_idx'] + self.first}


def loss(kind: str, **options: Any) -> BankLoss:
    return KINDS[kind](**{**dict(num_samples=6, negatives=2, dim=4), **options})


def trained(kind: str, data: Any = None, **options: Any) -> dict[str, Any]:
    """The state behind a step."""
    made = loss(kind, **options)
    made.see_dataset(Six() if data is None else data)
    made.bank.remember(torch.tensor([0]), torch.ones(2, 1, 4))
    made.bank.after_step()
    return made.state_dict()


def resumed(kind: str, state: dict[str, Any], data: Any, **options: Any) -> BankLoss:
    made = loss(kind, **options)
    state = {f'terms.x.loss.{key}': value for key, value in state.items()}
    made.upgrade(state, 'terms.x.loss.')
    made.load_state_dict({key.removeprefix('terms.x.loss.'): state[key] for key in state})
    made.see_dataset(data)
    return made


@pytest.mark.parametrize('kind', KINDS)
def test_other_images_are_refused(kind):
    state = trained(kind)
    with refused(problem=('the sample_idx of', 'as many, 6'), fix='load_from') as caught:
        resumed(kind, state, Six(first=1))
    assert 'classes' not in caught.value.problem


@pytest.mark.parametrize('kind', KINDS)
def test_other_classes_are_refused(kind):
    with refused(problem='the classes of', fix='load_from') as caught:
        resumed(kind, trained(kind), Six(labels=[0, 1, 2, 0, 2, 1]))
    assert 'sample_idx' not in caught.value.problem


@pytest.mark.parametrize('kind', KINDS)
def test_the_same_images_are_taken(kind):
    made = resumed(kind, trained(kind), RepeatDataset(Six(), times=2))
    assert torch.equal(made.fingerprint, trained(kind)['fingerprint'])
    assert made.fingerprint.dtype == torch.int64 and made.fingerprint.all()


@pytest.mark.parametrize('kind', KINDS)
def test_another_number_of_images(kind):
    state, seven = trained(kind), Six(labels=[0, 1, 2, 0, 1, 2, 0])
    told = ('7 different images', 'were filled from 6')
    with refused(key='num_samples', got=6, problem=told, fix=('load_from', 'num_samples=7')):
        resumed(kind, state, seven)
    with refused(key='num_samples', got=7, problem='filled from 6 images', fix='load_from'):
        resumed(kind, state, seven, num_samples=7)


@pytest.mark.parametrize('kind', KINDS)
def test_a_file_without_a_fingerprint_is_resumed(kind):
    """Of a version that had none; from then on it has one."""
    state = trained(kind)
    del state['fingerprint']
    made = resumed(kind, state, Six(first=1))
    with refused(problem='the sample_idx of'):
        resumed(kind, made.state_dict(), Six())


@pytest.mark.parametrize('kind', KINDS)
def test_before_the_first_step_there_is_nothing_to_keep(kind):
    made = loss(kind)
    made.see_dataset(Six())
    made.see_dataset(Six(first=1))
    other = loss(kind)
    other.see_dataset(Six(first=1))
    assert torch.equal(made.fingerprint, other.fingerprint)


def test_classes_count_only_where_they_are_read():
    other = Six(labels=[0, 1, 2, 0, 2, 1])
    state = trained('crd', mode='unlabelled')
    assert state['fingerprint'][1] == 0
    assert resumed('crd', state, other, mode='unlabelled').fingerprint[1] == 0
    labelled = resumed('crd', state, other)  # its classes are read from here on
    assert labelled.fingerprint.all()
    with refused(problem='the classes of'):
        resumed('crd', labelled.state_dict(), Six())


def test_rows_go_on_without_classes():
    """Known classes stay for a later run that reads them again."""
    made = resumed('crd', trained('crd'), Six(labels=[0, 1, 2, 0, 2, 1]), mode='unlabelled')
    assert made.fingerprint.all()
    with refused(problem='the sample_idx of'):
        resumed('crd', made.state_dict(), Six(first=1), mode='unlabelled')


def test_a_state_that_is_no_banks_is_left_to_the_loader():
    state: dict[str, Any] = {'bank.rows': torch.zeros(2)}
    loss('crd').upgrade(state, '')
    assert state.keys() == {'bank.rows'}
