import pytest
import torch

from kdmm.functional import bank_scores, cross_bank_scores
from tests.errors import unfit
from tests.versions import cpu_autocast

from .test_mutual import fix, unit

CLOSE = dict(rtol=1e-12, atol=1e-12)


def problem(dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Anchors (2, 5, 4), banks (3, 11, 4), an index (5, 7) with duplicates."""
    anchors, banks = unit(fix((2, 5, 4), 1)), fix((3, 11, 4), 2)
    index = torch.randint(11, (5, 7), generator=torch.Generator().manual_seed(0))
    index[:, 1] = index[:, 0]
    return anchors.to(dtype).requires_grad_(), banks.to(dtype), index


def naive(anchors, banks, index):
    return torch.einsum('ibmd,jbd->ijbm', banks[:, index], anchors)


@pytest.fixture(params=['one block', 'a block an image', 'three images'], autouse=True)
def block(request, monkeypatch):
    number = {'one block': 10**9, 'a block an image': 1, 'three images': 3 * 7 * 4}[request.param]
    monkeypatch.setattr('kdmm.functional.scores.block_elements', lambda like: number)


@pytest.mark.parametrize('whole', [True, False])
def test_values_and_gradients(whole):
    anchors, banks, index = problem()
    ours, expected = bank_scores(anchors, banks, index, whole), naive(anchors, banks, index)
    torch.testing.assert_close(ours, expected, **CLOSE)
    weight = fix(tuple(expected.shape), 5)
    grads = [torch.autograd.grad((x * weight).sum(), anchors)[0] for x in (ours, expected)]
    torch.testing.assert_close(*grads, **CLOSE)


@pytest.mark.parametrize('whole', [True, False])
def test_derivatives_of_any_order(whole):
    anchors, banks, index = problem()

    def score(x):
        return bank_scores(x, banks, index, whole)

    assert torch.autograd.gradcheck(score, anchors)
    assert torch.autograd.gradgradcheck(lambda x: score(x).square(), anchors)


@pytest.mark.parametrize('whole', [True, False])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_banks_and_anchors_are_multiplied_in_float32(dtype, whole):
    anchors, banks, index = problem(torch.float32)
    banks, half = banks.to(dtype), anchors.detach().to(dtype).requires_grad_()
    with cpu_autocast(dtype):
        ours = bank_scores(half, banks, index, whole)
        (grad,) = torch.autograd.grad(ours.square().sum(), half)
    exact = half.detach().double().requires_grad_()
    expected = naive(exact, banks.double(), index)
    (wanted,) = torch.autograd.grad(expected.square().sum(), exact)
    assert ours.dtype == torch.float32 and grad.dtype == dtype
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, wanted.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize('whole', [True, False])
def test_a_bank_that_is_written_too_early_is_refused(whole):
    anchors, banks, index = problem()
    loss = bank_scores(anchors, banks, index, whole).sum()
    banks[0].index_fill_(0, index[0], 0)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


@pytest.mark.parametrize('whole', [True, False])
def test_nothing_of_the_fetched_rows_is_kept(whole):
    anchors, banks, index = problem()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        bank_scores(anchors, banks, index, whole)
    assert {x.data_ptr() for x in kept} == {banks.data_ptr(), index.data_ptr()}


@pytest.mark.parametrize('whole', [True, False])
def test_two_networks_with_each_others_banks(whole):
    anchors, banks, index = problem()
    ours = cross_bank_scores(anchors, banks[:2], index, 0.1, whole)
    expected = naive(anchors / 0.1, banks[:2], index)
    torch.testing.assert_close(ours, torch.stack([expected[1, 0], expected[0, 1]]), **CLOSE)
    grads = [
        torch.autograd.grad(x.square().sum(), anchors)[0] for x in (ours, expected[[1, 0], [0, 1]])
    ]
    torch.testing.assert_close(*grads, **CLOSE)


def test_what_two_networks_need():
    anchors, banks, index = problem()
    with unfit('form', anchors=(2, 5, 4), banks=(3, 11, 4)):
        cross_bank_scores(anchors, banks, index)
    with pytest.raises(ValueError, match='tau must be positive, got 0'):
        cross_bank_scores(anchors, banks[:2], index, 0)


def test_the_form_goes_by_size(monkeypatch):
    """All rows for a bank of up to eight times the drawn ones."""
    taken = []
    for name in ('_scores', '_scores_whole'):
        monkeypatch.setattr(
            f'kdmm.functional.scores.{name}',
            lambda a, banks, i, name=name: taken.append(name) or torch.zeros(1),
        )
    anchors = torch.zeros(1, 5, 4)
    for rows in (56, 57):
        bank_scores(anchors, torch.zeros(1, rows, 4), torch.zeros(5, 7, dtype=torch.long))
    assert taken == ['_scores_whole', '_scores']


@pytest.mark.parametrize(
    'shapes',
    [
        ((5, 4), (3, 11, 4), (5, 7)),
        ((2, 5, 4), (11, 4), (5, 7)),
        ((2, 5, 4), (3, 11, 4), (4, 7)),
        ((2, 5, 4), (3, 11, 3), (5, 7)),
        ((2, 5, 4), (3, 11, 4), (5,)),
    ],
)
def test_shapes(shapes):
    anchors, banks, index = (torch.zeros(shape) for shape in shapes)
    with unfit('form', **dict(zip(('anchors', 'banks', 'index'), shapes, strict=True))):
        bank_scores(anchors, banks, index.long())
