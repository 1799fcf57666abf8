import pytest
import torch
from oracles import gen, lab

from kdmm.losses import KDLoss
from kdmm.registry import MODELS


def test_registered_and_needs():
    assert isinstance(MODELS.build(dict(type='kdmm.KDLoss')), KDLoss)
    assert KDLoss().needs == () and KDLoss(valid_only=True).needs == ('labels',)


def test_all_pixels_by_default_ignored_ones_left_out_on_request():
    student, teacher = gen((2, 5, 4, 6), 0.3), gen((2, 5, 4, 6), 1.1)
    labels = lab(2, 8, 12, 5)
    log_s, log_t = student.log_softmax(1), teacher.log_softmax(1)
    pixel = (log_t.exp() * (log_t - log_s)).sum(1)
    torch.testing.assert_close(KDLoss()(student, teacher, labels=labels), pixel.mean())
    valid = labels[:, ::2, ::2] != 255
    assert 0 < valid.sum() < valid.numel()
    loss = KDLoss(valid_only=True)(student, teacher, labels=labels)
    torch.testing.assert_close(loss, pixel[valid].mean())


def test_all_ignored_is_exactly_zero():
    student = gen((2, 5, 4, 6), 0.3).requires_grad_()
    loss = KDLoss(valid_only=True)(student, student.detach() + 1, torch.full((2, 8, 12), 255))
    loss.backward()
    assert loss == 0 and student.grad.abs().max() == 0


def test_tau_is_a_plain_number_that_may_change():
    loss = KDLoss(tau=1.0)
    student, teacher = gen((1, 5, 2, 3), 0.3), gen((1, 5, 2, 3), 1.1)
    before = loss(student, teacher)
    loss.tau = 4.0
    torch.testing.assert_close(loss(student, teacher), KDLoss(tau=4.0)(student, teacher))
    assert loss(student, teacher) != before


@pytest.mark.parametrize(
    'student, teacher, text',
    [
        ((2, 5, 4, 6), (2, 6, 4, 6), r'classes differ: student \(2, 5, 4, 6\)'),
        ((2, 5, 4, 6), (2, 5, 8, 12), r'resolutions differ: .*teacher \(2, 5, 8, 12\)'),
        ((2, 5, 4, 6), (1, 5, 4, 6), 'numbers of images differ'),
        ((2, 1, 4, 6), (2, 1, 4, 6), 'one channel.*out_channels=2'),
        ((2, 5, 4), (2, 5, 4), r'\(B, C, h, w\)'),
    ],
)
def test_refusals_show_both_shapes(student, teacher, text):
    with pytest.raises(ValueError, match=text):
        KDLoss()(torch.zeros(student), torch.zeros(teacher))


def test_labels_are_asked_for():
    x = torch.zeros(2, 5, 4, 6)
    with pytest.raises(ValueError, match='needs labels'):
        KDLoss(valid_only=True)(x, x)
    with pytest.raises(ValueError, match=r'\(2, 1, 8, 12\)'):
        KDLoss(valid_only=True)(x, x, labels=torch.zeros(2, 1, 8, 12))


def test_a_classifiers_logits_are_maps_of_one_pixel() -> None:
    student, teacher = gen((3, 5), 0.3), gen((3, 5), 1.1)
    expected = KDLoss(tau=2.0)(student[..., None, None], teacher[..., None, None])
    assert torch.equal(KDLoss(tau=2.0)(student, teacher), expected)
