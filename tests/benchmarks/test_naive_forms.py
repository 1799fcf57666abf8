"""The textbook forms that kdmm's are measured against: right, and the same loss as kdmm's."""

import pytest
import torch
from oracles import gen, gen_plus, lab, unit

from benchmarks import naive
from benchmarks.cases import CASES
from benchmarks.child import Call
from benchmarks.figures import TOLERANCE, difference
from benchmarks.losses import compare
from benchmarks.naive import Queues

ZS, ZT = 2 * gen((2, 5, 4, 6), 0.3), 2 * gen((2, 5, 4, 6), 1.1)
FS, FT = gen_plus((2, 6, 4, 6), 0.3), gen_plus((2, 10, 4, 6), 1.1)
FT6 = gen_plus((2, 6, 4, 6), 1.1)
IFVD_LABELS = lab(2, 16, 24, 3)[:, ::4, ::4]
PSD = (
    [2 * gen((2, 5, 4, 6), 0.9), FS, ZS],
    [2 * gen((2, 5, 4, 6), 1.7), FT, ZT],
)

#: Reference numbers in double precision (docs/methods/segmentation.md, cirkd.md).
VALUES = {
    'kd': (lambda: naive.kd(ZS, ZT), 0.672662120159),
    'kd, T = 4': (lambda: naive.kd(ZS, ZT, temperature=4), 1.01049186179),
    'at': (lambda: naive.at(FS, FT), 0.0150961922541),
    'cwd': (lambda: naive.cwd(FS, FT6), 0.126400911914),
    'skd': (lambda: naive.skd(FS, FT), 0.0175198982566),
    'ifvd': (lambda: naive.ifvd(FS, FT, IFVD_LABELS, 3), 0.0178085388278),
    'psd': (lambda: naive.psd(*PSD), 0.109111098432),
    'csd': (lambda: naive.csd(ZS, ZT), 2.62768227121e-06),
    'p2p': (lambda: naive.p2p(FS, FT), 3.59901245944),
}


@pytest.mark.parametrize('name', VALUES)
def test_reference_numbers(name):
    form, value = VALUES[name]
    assert form().item() == pytest.approx(value, rel=1e-7)


def test_memory_against_the_specification():
    maps = (gen((2, 10, 4, 6), phi).permute(0, 2, 3, 1).reshape(-1, 10) for phi in (0.3, 1.1))
    valid = (lab(2, 4, 6, 3) != 255).flatten()
    student, teacher = (unit(rows[valid]) for rows in maps)
    keys = unit(gen((15, 10), 2.0))
    value = naive.memory(student, teacher, keys, [15])
    assert value.item() == pytest.approx(1.56900544413, rel=1e-9)
    twice = naive.memory(student, teacher, torch.cat([keys, keys[:4]]), [15, 4])
    assert twice.item() > value.item(), 'every section has its own softmax'


def test_queues_keep_to_their_class_and_wrap():
    queues = Queues(num_classes=2, channels=3, pixel_size=5, region_size=2, per_image=2)
    labels = torch.tensor([[0, 0, 0, 1], [0, 255, 0, 0], [0, 0, 255, 255]])
    rows = torch.zeros(3, 4, 3)
    rows[..., 0], rows[..., 1] = labels == 0, labels == 1
    rows[..., 2] = torch.arange(3.0)[:, None]  # the image
    rows[labels == 255] = 9
    queues.enqueue(rows, labels)
    assert queues.pixel_ptr.tolist() == [6 % 5, 1] and queues.region_ptr.tolist() == [3 % 2, 1]
    assert queues.pixel[0].tolist() == [[1, 0, image] for image in (2, 0, 1, 1, 2)]
    assert queues.pixel[1].sum() == 1 and queues.region[1, 0].tolist() == [0, 1, 0]


def job(case, form):
    return dict(case=case, form=form, device='cpu', dtype='float32')


def fingerprints(case, form):
    from benchmarks.child import fingerprint

    found = Call(job(case, form), CASES[case].quick)()
    return dict(values={key: fingerprint(value) for key, value in found.items()})


PAIRS = [(name, form) for name, case in CASES.items() for form in case.ours]


@pytest.mark.parametrize('case, form', PAIRS)
def test_kdmm_computes_the_same(case, form):
    ours, theirs = fingerprints(case, form), fingerprints(case, 'naive')
    assert difference(theirs, ours) < 1e-4
    assert all(norm > 0 for norm, _ in theirs['values'].values())


def test_crd_writes_the_same_rows():
    calls = [Call(job('crd', form), CASES['crd'].quick) for form in ('naive', 'ours')]
    before = calls[0].given['banks'].clone()
    for call in calls:
        call()
    naive_rows, ours = (call.given['banks'] for call in calls)
    torch.testing.assert_close(naive_rows, ours)
    changed = (ours != before).any(2)
    assert (changed.sum(1) == CASES['crd'].quick['batch']).all()


@pytest.mark.parametrize('case', [name for name, case in CASES.items() if case.floor])
def test_the_products_are_no_loss(case):
    assert Call(job(case, 'products'), CASES[case].quick)() == {}
    assert CASES[case].floor[1](CASES[case].quick) > 0


def test_the_pair_products_are_those_of_the_formula():
    shape = CASES['p2p'].shapes[1]
    pixels = 2 * 64 * 128
    assert CASES['p2p'].floor[1](shape) == 2 * pixels * pixels * (256 + 3 * 128)
    assert CASES['memory'].floor[1](CASES['memory'].shapes[0]) == 2 * 16384 * 5130 * 256 * 3


def test_another_gradient_of_the_same_length_differs():
    call = Call(job('kd', 'naive'), CASES['kd'].quick)()
    from benchmarks.child import fingerprint

    one = dict(values={'gradient': fingerprint(call['gradient'])})
    other = dict(values={'gradient': fingerprint(-call['gradient'])})
    assert difference(one, other) > TOLERANCE['float32']
    same = dict(median_s=1.0, added_mib=2.0, peak_mib=3.0)
    found = dict(naive=dict(one, **same), ours=dict(other, **same))
    assert compare(found, 'ours', 'float32')['agrees'] is False
