import torch

from kdmm.distillers import Projection, Resize, distill
from tests.distillers.tiny_models import KD, TEACHER, images, samples, tiny


def test_resize_takes_the_teachers_size():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 8, 7)
    assert Resize()(student, teacher).shape == (2, 3, 8, 7)
    assert Resize()(student, torch.randn(2, 6, 4, 5)) is student


def test_resize_is_bilinear():
    row = torch.tensor([[[[0.0, 1.0]]]])
    assert Resize()(row, torch.zeros(1, 1, 1, 4))[0, 0, 0].tolist() == [0, 0.25, 0.75, 1]
    aligned = Resize(align_corners=True)(row, torch.zeros(1, 1, 1, 3))
    assert aligned[0, 0, 0].tolist() == [0, 0.5, 1]


def test_projection_takes_the_teachers_channels():
    projection = Projection(3, 6, bias=False)
    assert projection(torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)).shape == (2, 6, 4, 5)
    assert projection.conv.bias is None


def test_in_a_distilled_student():
    """The projection is trained and belongs to kd; a resize bridges two strides."""
    losses = dict(
        width=dict(type='Distance', on='body', connector=dict(type='Projection')),
        size=dict(type='KDLoss', on='logits', connector=dict(type='Resize')),
    )
    kd = dict(
        teacher=dict(TEACHER, model=tiny(6, stride=1)),
        taps=dict(logits='head.out', body=dict(student='body.out', teacher='stem.out')),
        losses=losses,
        probe_size=(16, 16),
    )
    losses['width']['connector'] = dict(type='Projection')
    kd['teacher'] = [dict(TEACHER, model=tiny(6, stride=1)), TEACHER]
    losses['width']['teacher'] = 1
    student = distill(tiny(), **kd).train()
    result = student(images(), samples(), mode='loss')
    result['kd.loss_width'].backward()
    conv = student.kd.terms['width'].connector.conv
    assert conv.weight.shape == (6, 4, 1, 1) and conv.weight.grad.abs().sum() > 0
    assert result['kd.loss_size'].isfinite()
    assert 'kd.terms.width.connector.conv.weight' in student.state_dict()


def test_a_loss_behind_a_projection_is_told_the_new_width():
    losses = dict(p=dict(type='Parts', on='body', connector=dict(type='Projection')))
    student = distill(tiny(), **{**KD, 'taps': dict(body='body.out'), 'losses': losses})
    assert student.kd.terms['p'].loss.projector.weight.shape == (6, 6, 1, 1)
