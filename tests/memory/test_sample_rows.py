import pytest
import torch

from kdmm.functional import draw_columns
from kdmm.memory import SampleRows
from tests.errors import refused

IDS = torch.tensor([70, 3, 70, 12, 3, 900])
LABELS = torch.tensor([1, 0, 1, 2, 0, 1])
IDS_HASH, LABELS_HASH = -5839288561478210003, 1023194374048796945


def filled() -> SampleRows:
    rows = SampleRows()
    rows.fill(IDS, LABELS)
    return rows


def test_rows_in_the_order_of_the_ids():
    rows = filled()
    assert len(rows) == 4
    found, classes = rows.find(torch.tensor([900, 3, 12, 70, 3]), torch.tensor([1, 0, 2, 1, 0]))
    assert found.tolist() == [3, 0, 1, 2, 0] and classes.tolist() == [1, 0, 2, 1, 0]


def test_classes_are_those_of_the_rows():
    rows = filled()
    assert rows.classes.order.tolist() == [0, 2, 3, 1] and rows.classes.size.tolist() == [1, 2, 1]
    noise = torch.randint(2**32, (4, 50), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2, 1, 1])
    columns = draw_columns(rows.classes, torch.arange(4), labels, noise)
    assert (labels[columns[:, 1]] == labels).all()
    assert (labels[columns[:, 2:]] != labels[:, None]).all()


def test_without_classes():
    rows = SampleRows()
    rows.fill(IDS)
    assert len(rows) == 4 and not len(rows.classes.order)
    assert rows.find_rows(torch.tensor([900, 3])).tolist() == [3, 0]
    assert filled().find_rows(torch.tensor([900, 3])).tolist() == [3, 0]
    with refused(problem='no image of the training set has sample_idx 4'):
        rows.find_rows(torch.tensor([4]))


def test_an_order_of_the_items_does_not_matter():
    other = SampleRows()
    order = torch.tensor([5, 0, 3, 1, 2, 4])
    other.fill(IDS[order], LABELS[order])
    for name, value in filled().classes._asdict().items():
        assert torch.equal(value, getattr(other.classes, name))


def test_a_fingerprint_of_ids_and_classes():
    """Whatever the order and repetitions; the numbers must never change, for files have them.

    They are those of ``struct.pack('<4q', 3, 12, 70, 900)`` and ``struct.pack('<4q', 0, 2, 1, 1)``
    through SHA-256, the first 8 bytes as a little-endian int64.
    """
    whole = filled().fingerprint()
    assert whole == (IDS_HASH, LABELS_HASH)
    order, other = torch.tensor([5, 0, 3, 1, 2]), SampleRows()
    other.fill(IDS[order], LABELS[order])
    assert other.fingerprint() == whole
    unlabelled = SampleRows()
    unlabelled.fill(IDS)
    assert unlabelled.fingerprint() == (whole[0], 0)
    swapped = SampleRows()
    swapped.fill(IDS, torch.tensor([1, 2, 1, 0, 2, 1]))  # as many of each class
    assert swapped.fingerprint()[0] == whole[0] and swapped.fingerprint()[1] not in (0, whole[1])
    swapped.fill(IDS + 1, LABELS)
    assert swapped.fingerprint()[0] != whole[0] and swapped.fingerprint()[1] == whole[1]


def test_nothing_is_saved_and_buffers_follow_the_device():
    rows = filled()
    assert not rows.state_dict()
    assert rows.to('meta').classes.order.is_meta
    other = SampleRows().to('meta')
    other.fill(IDS, LABELS)  # a resumed run: the model is on the device by then
    assert all(x.is_meta for x in other.classes)
    assert other.find(IDS, LABELS)[0].is_meta


def test_one_id_of_two_classes():
    told = 'two images of the training set have sample_idx 3, of class '
    with refused(problem=told, fix='a sample_idx of its own'):
        SampleRows().fill(IDS, torch.tensor([1, 0, 1, 2, 1, 1]))


def test_one_class():
    with refused(problem='the training set: all 4 images are of class 1'):
        SampleRows().fill(IDS, torch.ones_like(IDS))


@pytest.mark.parametrize('number', [0, 4, 901])
def test_an_unknown_id(number):
    with refused(problem=f'no image of the training set has sample_idx {number}') as caught:
        filled().find(torch.tensor([3, number]), torch.tensor([0, 0]))
    assert caught.value.problem.endswith(f' {number}')


def test_another_label_than_the_data_sets():
    rows = filled()
    for _ in range(2):  # in every batch
        with refused(problem='sample_idx 12 has label 0 in the batch and 2 in'):
            rows.find(torch.tensor([3, 12]), torch.tensor([0, 0]))
        rows.find(torch.tensor([3, 12]), torch.tensor([0, 2]))


def test_labels_on_a_gpu_are_read_once(monkeypatch):
    monkeypatch.setattr(torch.Tensor, 'is_cuda', True)
    rows, wrong = filled(), torch.tensor([1])
    with refused(problem='has label 1'):
        rows.find(torch.tensor([3]), wrong)
    rows.find(torch.tensor([3]), torch.tensor([0]))
    assert rows.find(torch.tensor([3]), wrong)[1].tolist() == [0]  # the data set's


def test_before_the_data_set_is_seen():
    with refused(problem='the training set was not seen', fix='see_dataset'):
        SampleRows().find(torch.tensor([3]), torch.tensor([0]))
