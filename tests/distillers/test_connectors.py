from collections.abc import Callable

import pytest
import torch

from kdmm.distillers import Pool, Projection, Resize, distill
from kdmm.distillers.connectors import Chain, PerTap
from tests.distillers.tiny_models import KD, TEACHER, images, samples, tiny
from tests.errors import refused, unfit


@pytest.mark.parametrize(
    'to, sizes', [('teacher', (8, 7)), ('student', (4, 5)), ((6, 9), (6, 9)), ([6, 9], (6, 9))]
)
def test_resize_brings_both_to_one_size(to, sizes):
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 8, 7)
    mine, theirs = Resize(to)(student, teacher)
    assert mine.shape == (2, 3, *sizes) and theirs.shape == (2, 6, *sizes)
    assert (mine is student) == (to == 'student') and (theirs is teacher) == (to == 'teacher')


@pytest.mark.parametrize('to', ['both', (8,), (8, 0), (8, 7.0), 8, (1, 2, 3)])
def test_a_size_that_is_none(to):
    with refused(key='to', got=to, expected="'teacher', 'student' or (h, w)"):
        Resize(to)


def test_resize_is_bilinear():
    row, wide = torch.tensor([[[[0.0, 1.0]]]]), torch.zeros(1, 1, 1, 4)
    assert Resize()(row, wide)[0][0, 0, 0].tolist() == [0, 0.25, 0.75, 1]
    aligned = Resize(align_corners=True)(row, torch.zeros(1, 1, 1, 3))[0]
    assert aligned[0, 0, 0].tolist() == [0, 0.5, 1]
    teacher = torch.tensor([[[[0.0, 2.0, 4.0, 6.0]]]])
    assert Resize('student')(row, teacher)[1][0, 0, 0].tolist() == [1, 5]


@pytest.mark.parametrize('larger', ['student', 'teacher'])
def test_pool_brings_the_larger_map_to_the_smaller(larger):
    small, large = torch.randn(2, 3, 2, 3), torch.arange(2.0 * 4 * 7).view(2, 1, 4, 7)
    pair = (large, small) if larger == 'student' else (small, large)
    found = dict(zip(('student', 'teacher'), Pool()(*pair), strict=True))
    pooled = found.pop(larger)
    assert next(iter(found.values())) is small
    # windows of adaptive pooling overlap where 3 does not divide 7: columns 0-2, 2-4 and 4-6
    assert pooled.shape == (2, 1, 2, 3)
    assert pooled[0, 0].tolist() == [[4.5, 6.5, 8.5], [18.5, 20.5, 22.5]]
    assert Pool()(large, large)[1] is large


def test_pool_treats_height_and_width_each_by_itself():
    mine, theirs = Pool()(torch.ones(1, 2, 8, 3), torch.ones(1, 5, 4, 6))
    assert mine.shape == (1, 2, 4, 3) and theirs.shape == (1, 5, 4, 3)


def test_projection_takes_the_teachers_channels():
    projection = Projection(3, 6, bias=False)
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    mine, theirs = projection(student, teacher)
    assert mine.shape == (2, 6, 4, 5) and theirs is teacher
    assert projection.conv.bias is None and Projection(3, 6).conv.bias is not None


def test_a_projection_with_normalisation():
    """BN by the batch's statistics and ReLU; nothing but parameters is kept."""
    projection = Projection(3, 6, bias=False, norm=True)
    assert set(projection.state_dict()) == {'conv.weight', 'norm.weight', 'norm.bias'}
    student = torch.randn(4, 3, 5, 5)
    raw = projection.conv(student)
    mean, var = raw.mean((0, 2, 3), keepdim=True), raw.var((0, 2, 3), unbiased=False, keepdim=True)
    expected = ((raw - mean) / (var + 1e-5).sqrt()).relu()
    for mode in (True, False):
        mine, _ = projection.train(mode)(student, torch.zeros(4, 6, 5, 5))
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
    assert set(Projection(3, 6).state_dict()) == {'conv.weight', 'conv.bias'}


@pytest.mark.parametrize('connector', [Resize(), Pool(), Projection(3, 6)])
def test_what_is_no_map_is_refused_with_both_shapes(connector):
    with unfit('form', student=(2, 5, 3), teacher=(2, 5, 6)):
        connector(torch.zeros(2, 5, 3), torch.zeros(2, 5, 6))


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


@pytest.mark.parametrize('to', ['teacher', 'student'])
@pytest.mark.parametrize('strides', [(8, 4), (4, 8)])
def test_networks_of_stride_8_and_4(strides, to):
    """A CNN and a SegFormer: refused as they are, bridged either way."""
    mine, theirs = strides
    loss = dict(type='KDLoss', on='logits')
    kd = dict(teacher=dict(TEACHER, model=tiny(6, stride=theirs)), taps=dict(logits='head.out'))
    sizes = [f'(1, 3, {64 // stride}, {64 // stride})' for stride in (mine, theirs)]
    told = ("on tap 'logits'", f'student {sizes[0]}, teacher {sizes[1]}')
    with refused(key='kd.losses.kd', problem=told, fix="connector=dict(type='Resize')"):
        distill(tiny(stride=mine), **kd, losses=dict(kd=loss))
    bridge = dict(type='Resize', to=to)
    student = distill(tiny(stride=mine), **kd, losses=dict(kd=dict(loss, connector=bridge)))
    seen = []
    student.kd.terms['kd'].loss.register_forward_pre_hook(lambda _, pair: seen.append(pair))
    x = images(2, 16)
    value = student.train()(x, samples(2, 16), mode='loss')['kd.loss_kd']
    (pair,) = seen
    side = 16 // (theirs if to == 'teacher' else mine)
    assert [tuple(part.shape) for part in pair] == [(2, 3, side, side)] * 2
    value.backward()
    assert student.stem[0].weight.grad.abs().sum() > 0


def test_a_list_of_connectors_is_applied_in_order():
    kd = dict(KD, taps=dict(body=dict(student='body.out', teacher='stem.out')))
    kd['teacher'] = dict(TEACHER, model=tiny(6, stride=1))
    chain = [dict(type='Resize', to=(5, 5)), dict(type='Projection')]
    kd['losses'] = dict(d=dict(type='Distance', on='body', connector=chain))
    student = distill(tiny(), **kd).train()
    assert 'kd.terms.d.connector.1.conv.weight' in student.state_dict()
    seen = []
    student.kd.terms['d'].loss.register_forward_pre_hook(lambda _, pair: seen.append(pair))
    student(images(), samples(), mode='loss')
    assert [tuple(part.shape) for part in seen[0]] == [(2, 6, 5, 5)] * 2


def test_the_order_of_connectors_matters():
    """(x + 1) * 2, not x * 2 + 1; the two sides are kept apart."""

    class Link(torch.nn.Module):
        def __init__(self, change: Callable) -> None:
            super().__init__()
            self.change = change

        def forward(self, student: int, teacher: int) -> tuple[int, int]:
            return self.change(student), -teacher

    chain = Chain([Link(lambda x: x + 1), Link(lambda x: x * 2)])
    assert chain(3, 5) == (8, 5)
    assert PerTap([chain, Link(abs)])((3, -4), (5, 6)) == ((8, 4), (5, -6))


def test_each_of_several_taps_has_a_connector_of_its_own():
    taps = dict(body='body.out', logits='head.out')
    loss = dict(type='Paired', on=['logits', 'body'], connector=dict(type='Projection'))
    student = distill(tiny(), **{**KD, 'taps': taps, 'losses': dict(p=loss)}).train()
    shapes = {k: tuple(v.shape) for k, v in student.kd.state_dict().items() if 'weight' in k}
    assert shapes == {
        'terms.p.connector.0.conv.weight': (3, 3, 1, 1),
        'terms.p.connector.1.conv.weight': (6, 4, 1, 1),
    }
    student(images(), samples(), mode='loss')['kd.loss_p'].backward()
    assert all(p.grad.any() for p in student.kd.parameters())


def test_a_link_that_does_not_fit_is_named():
    chain = [dict(type='Resize'), dict(type='Projection', student_channels=7)]
    losses = dict(d=dict(type='Distance', on='logits', connector=chain))
    with refused(key='kd.losses.d.connector[1]'):
        distill(tiny(), **{**KD, 'losses': losses})


@pytest.mark.parametrize('connector', ['Resize', 3, [['Resize']]])
def test_a_connector_of_the_wrong_kind(connector):
    losses = dict(d=dict(type='Distance', on='logits', connector=connector))
    with refused(expected='dict(type=') as caught:
        distill(tiny(), **{**KD, 'losses': losses})
    assert caught.value.key.startswith('kd.losses.d.connector')
