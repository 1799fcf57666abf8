"""Losses that no student could change are refused with the reason."""

import pytest
import torch
from oracles import gen, lab

from kdmm.losses import (
    AdversarialLoss,
    ATLoss,
    BinaryKDLoss,
    CIRKDChannelLoss,
    CIRKDMemoryLoss,
    CIRKDMiniBatchLoss,
    CSDLoss,
    CWDLoss,
    EnsembleKDLoss,
    IFVDLoss,
    KDLoss,
    MCLBankLoss,
    MCLLoss,
    PSDLoss,
    SKDLoss,
)
from tests.errors import refused, unfit

KEYS = dict(pixel_size=40, region_size=6, pixel_keys=12, region_keys=5, norm_cfg=None)
QUEUE = dict(queue_size=20, per_step=8, keys=9, norm_cfg=None)
#: Loss; a shape of the student's map for which it is constant; channels of the teacher; the
#: mismatch, of a pooling with the size of its windows; and a shape for which it is not.
CASES = {
    'at': (ATLoss(), (2, 4, 1, 1), 6, 'one pixel', (2, 4, 1, 2)),
    'at, image': (ATLoss('image'), (2, 1, 1, 1), 6, 'one pixel', (2, 1, 2, 1)),
    'cwd': (CWDLoss(), (2, 4, 1, 1), 4, 'one pixel', (2, 4, 2, 1)),
    'skd, one window': (SKDLoss(), (2, 4, 2, 2), 6, 'one window of 2 x 2', (2, 4, 2, 3)),
    'skd, part of a window': (SKDLoss(4), (2, 4, 3, 1), 6, 'one window of 4 x 4', (2, 4, 5, 1)),
    'skd, scale': (SKDLoss(scale=1.0), (2, 4, 4, 6), 6, 'one window of 4 x 6', None),
    'skd, pixel': (SKDLoss(1), (2, 4, 1, 1), 6, 'one pixel', (2, 4, 1, 2)),
    'skd, channel': (SKDLoss(), (2, 1, 4, 6), 6, 'one channel', (2, 2, 4, 6)),
    'ifvd': (IFVDLoss(3), (2, 4, 1, 1), 6, 'one pixel', (2, 4, 2, 2)),
    'ifvd, channel': (IFVDLoss(3), (2, 1, 4, 6), 6, 'one channel', (2, 2, 4, 6)),
    'csd': (CSDLoss(), (2, 4, 2, 2), 4, 'one window of 2 x 2', (2, 4, 2, 3)),
    'p2p': (CIRKDMiniBatchLoss(), (2, 4, 1, 1), 6, 'one pixel', (2, 4, 1, 2)),
    'p2p, pooled': (
        CIRKDMiniBatchLoss(pool=3),
        (2, 4, 3, 2),
        6,
        'one window of 3 x 3',
        (2, 4, 4, 2),
    ),
    'p2p, channel': (CIRKDMiniBatchLoss(), (2, 1, 4, 6), 6, 'one channel', (2, 2, 4, 6)),
    'memory, channel': (CIRKDMemoryLoss(4, 1, 3, **KEYS), (2, 4, 4, 6), 1, 'one channel', None),
    'channel': (CIRKDChannelLoss(4, 6, **QUEUE), (2, 4, 4, 3), 6, 'one window of 4 x 4', None),
    'kd': (KDLoss(), (2, 1, 4, 6), 1, 'one class', (2, 2, 4, 6)),
}


def maps(shape, channels):
    return gen(shape, 0.3), gen((shape[0], channels, *shape[2:]), 1.1)


def slope(loss, student, teacher):
    """Length of the loss's gradient at the student's map."""
    student = student.clone().requires_grad_()
    height, width = student.shape[2:]
    labels = dict(labels=lab(2, height, width, 3)) if loss.needs else {}
    value = loss.double()(student, teacher, **labels)
    value = value if isinstance(value, torch.Tensor) else torch.stack(list(value.values())).sum()
    return float(torch.autograd.grad(value, student)[0].norm())


@pytest.mark.parametrize('name', CASES)
def test_constant_losses_are_refused(name, monkeypatch):
    loss, shape, channels, why, other = CASES[name]
    student, teacher = maps(shape, channels)
    labels = dict(labels=lab(2, *shape[2:], 3)) if loss.needs else {}
    mismatch, _, window = why.partition(' of ')
    for call in (loss.check, lambda *pair: loss(*pair, **labels)):
        with unfit(mismatch, student=shape, teacher=tuple(teacher.shape), problem=window):
            call(student, teacher)
    # they are constant
    monkeypatch.setattr(loss, 'check', lambda *_: None)
    assert slope(loss, student, teacher) < 1e-12
    monkeypatch.undo()
    if other is not None:  # and what is a little larger is not
        channels = other[1] if channels == shape[1] else channels
        assert slope(loss, *maps(other, channels)) > 1e-12


def test_a_correlation_of_classes_needs_two():
    with unfit('one class', student=(2, 1, 4, 6), teacher=(2, 1, 4, 6)):
        CSDLoss().check(*maps((2, 1, 4, 6), 1))


def test_layers_of_one_pixel():
    layers = [[gen((2, c, 1, 1), c) for c in (3, 5)] for _ in range(2)]
    with unfit('one pixel', student=(2, 3, 1, 1), teacher=(2, 3, 1, 1)):
        PSDLoss().check(*layers)


@pytest.mark.parametrize('kind', ['pixel', 'region'])
def test_a_memory_of_one_row(kind):
    for size, keys in ((1, 5), (5, 0)):
        options = {**KEYS, f'{kind}_size': size, f'{kind}_keys': keys}
        with refused(key=f'{kind}_size', got=size, problem='one key', fix=f'{kind}_keys=1'):
            CIRKDMemoryLoss(4, 6, 1, **options)
        CIRKDMemoryLoss(4, 6, 2, **options)


def test_one_channel_to_compare():
    loss = CIRKDChannelLoss(4, 1, **QUEUE)
    with unfit('one channel', student=(2, 4, 9, 9), teacher=(2, 1, 9, 9)):
        loss.check(*maps((2, 4, 9, 9), 1))


def test_peers_that_could_not_differ():
    with unfit('one class', peers=[(3, 1), (3, 1)]):
        EnsembleKDLoss().check([torch.zeros(3, 1)] * 2)
    EnsembleKDLoss().check([torch.zeros(3, 2)] * 2)
    for build in (lambda: MCLLoss([4, 4], dim=1), lambda: MCLBankLoss([4, 4], 9, dim=1)):
        with refused(key='dim', got=1, expected='2 channels or more'):
            build()


def test_a_batch_of_one_image_has_no_other_to_contrast_with():
    loss, one = MCLLoss([4, 4], dim=3), [torch.randn(1, 4)] * 2
    with unfit('one image', peers=[(1, 4), (1, 4)]):
        loss(one, torch.tensor([0]))
    loss([torch.randn(4, 4)] * 2, torch.tensor([0, 0, 1, 1]))
    loss(one, torch.tensor([0]))  # what is left of a data set


@pytest.mark.parametrize('value', [0, 0.0, -1.0, float('inf'), float('nan')])
def test_temperatures_are_positive_numbers(value):
    for build in (
        KDLoss,
        BinaryKDLoss,
        CWDLoss,
        CSDLoss,
        CIRKDMiniBatchLoss,
        EnsembleKDLoss,
        lambda x: CIRKDMemoryLoss(4, 6, 3, **KEYS, temperature=x),
        lambda x: CIRKDChannelLoss(4, 6, **QUEUE, tau=x),
        lambda x: MCLLoss([4, 4], temperature=x),
        lambda x: MCLBankLoss([4, 4], 9, tau=x),
        lambda x: AdversarialLoss(3, d_weight=x),
    ):
        with refused(expected='a positive number') as caught:
            build(value)
        assert repr(caught.value.got) == repr(value)  # nan, too
