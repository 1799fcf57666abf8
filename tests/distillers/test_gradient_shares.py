"""Shares of the gradient against the same by hand."""

import pytest
import torch

from kdmm.distillers import Progress, distill
from tests.distillers.tiny_models import KD, TinyNet, images, samples, tiny
from tests.versions import cpu_autocast

TAPS = dict(logits='head.out', body='body.out')
LOSSES = dict(
    kd=dict(type='KDLoss', on='logits', weight=2.0),
    two=dict(type='Parts', on='body', weight=dict(one=0.3, two='auto:0.5')),
    both=dict(type='Paired', on=['body', 'logits'], connector=dict(type='Projection')),
    all=dict(type='Parts', on='body', weight='auto:0.2'),
)


def student(losses: dict = LOSSES, **options: object) -> torch.nn.Module:
    made = distill(tiny(), **{**KD, 'taps': TAPS, 'losses': losses, **options}).train()
    made.stem[3].p = 0.0
    return made


def by_hand(made: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """Label to weighted loss and share."""
    with made.kd.student_taps.record() as taps:
        own = TinyNet.forward(made, images(), samples(), mode='loss')
    terms = made.kd.compute(taps, images(), samples())
    found = {}
    for key, value in terms.items():
        label = key.removeprefix('kd.loss_')
        read = [taps[tap] for tap in made.kd.terms[label.split('_')[0]].taps]
        norms = []
        for loss in (value, sum(own.values())):
            grads = torch.autograd.grad(loss, read, retain_graph=True)
            norms.append(torch.cat([grad.flatten() for grad in grads]).norm())
        found[label] = (float(value), float(norms[0] / norms[1]))
    return found


def step(made: torch.nn.Module, measure: bool = True) -> dict:
    made.kd.measure_next = measure
    return made(images(), samples(), mode='loss')


def test_the_shares_of_every_term_and_part():
    made = student()
    found = step(made)
    expected = by_hand(made)
    assert [share.label for share in made.kd.shares] == [
        'kd', 'two_one', 'two_two', 'both', 'all_one', 'all_two'
    ]  # fmt: skip
    for share in made.kd.shares:
        loss, value = expected[share.label]
        assert float(share.share) == pytest.approx(value, rel=1e-4), share.label
        assert float(share.loss) == pytest.approx(loss, rel=1e-5) and share.wanted
        assert not torch.as_tensor(share.share).requires_grad
        assert found[f'kd.loss_{share.label}'] == share.loss
    shares = {share.label: share for share in made.kd.shares}
    assert float(shares['two_two'].share) == pytest.approx(0.5, rel=1e-5)
    assert float(shares['all_one'].share) == pytest.approx(0.2 / 3, rel=1e-5)
    assert shares['kd'].weight == 2.0 and shares['both'].taps == 'body, logits'
    assert float(shares['all_two'].weight) == made.kd.terms['all'].weights.auto('').value()


def test_they_are_measured_when_asked_for():
    made = student(dict(kd=LOSSES['kd']))
    step(made)
    assert len(made.kd.shares) == 1
    step(made, measure=False)
    assert made.kd.shares == []


def test_nothing_is_measured_without_need(monkeypatch):
    """One pass for the task and one for each part, in the iterations in which it is asked for."""
    calls = []
    real = torch.autograd.grad
    monkeypatch.setattr(
        'torch.autograd.grad', lambda *args, **options: (calls.append(1), real(*args, **options))[1]
    )
    auto = dict(type='Auto', share=0.1, iterations=1)
    made = student(dict(kd=LOSSES['kd'], a=dict(type='Distance', on='logits', weight=auto)))
    counts = []
    for measure in (False, False, True):
        calls.clear()
        step(made, measure)
        counts.append(len(calls))
    assert counts == [2, 0, 3]


def test_a_part_of_weight_zero_has_no_share_and_asks_for_none():
    made = student(dict(p=dict(type='Parts', on='body', weight=dict(one=0, two=1.0))))
    step(made)
    one, two = made.kd.shares
    assert (one.label, one.weight, one.share, one.wanted) == ('p_one', 0, 0, False)
    assert two.wanted and two.share > 0


def test_an_idle_term_is_in_the_line_with_zeros():
    stop = dict(type='StopAt', value=1.0, end=5)
    made = student(dict(kd=dict(LOSSES['kd'], weight=stop), a=dict(type='Distance', on='logits')))
    made.kd.set_progress(Progress(5))
    step(made)
    idle, other = made.kd.shares
    assert (idle.loss, idle.weight, idle.share, idle.wanted) == (0, 0, 0, False)
    assert other.share > 0


def test_a_tap_off_the_tasks_way_has_no_finite_share():
    config = dict(tiny(), type='kdmm.SideNet')
    losses = dict(d=dict(type='Distance', on='side'))
    made = distill(config, **{**KD, 'teacher': dict(model=config, random=True), 'losses': losses,
                              'taps': dict(side='side.out')}).train()  # fmt: skip
    step(made)
    assert made.kd.shares[0].share == float('inf')


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_under_autocast(dtype):
    made = student()
    with cpu_autocast(dtype):
        step(made)
        shares = {share.label: float(share.share) for share in made.kd.shares}
    step(made)
    for share in made.kd.shares:
        assert shares[share.label] == pytest.approx(float(share.share), rel=0.1), share.label


def test_measuring_leaves_the_gradients_to_the_bit():
    grads = []
    for measure in (False, True):
        torch.manual_seed(0)
        made = student(dict(kd=LOSSES['kd'], both=LOSSES['both']))
        sum(step(made, measure).values()).backward()
        grads.append([p.grad for p in made.parameters()])
        assert bool(made.kd.shares) == measure
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
