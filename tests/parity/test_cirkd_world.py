"""One, two and four gloo ranks on the same four images."""

import pytest
import torch
import world
from oracles import naive_p2p

from tests.ranks import on_ranks

CLOSE = dict(rtol=1e-10, atol=1e-12)


@pytest.fixture(scope='module')
def one():
    return world.everything()


@pytest.fixture(scope='module', params=[2, 4])
def ranks(request):
    return on_ranks(world.everything, request.param)


def test_one_process_equals_the_naive_loop(one):
    student, teacher, labels = world.global_maps()
    student.requires_grad_()
    for name, valid in (('p2p', None), ('p2p_valid', labels[:, ::2, ::2] != 255)):
        loss = naive_p2p(student, teacher, valid=valid)
        torch.testing.assert_close(one[name]['value'], loss.detach(), **CLOSE)
        (grad,) = torch.autograd.grad(loss, student)
        torch.testing.assert_close(one[name]['grad'], grad, **CLOSE)


@pytest.mark.parametrize('name', ['p2p', 'p2p_valid', 'whole', 'memory'])
def test_loss_and_gradient(one, ranks, name):
    for result in ranks:
        torch.testing.assert_close(result[name], one[name], **CLOSE)


@pytest.mark.parametrize('name', ['queues_class', 'queues_legacy', 'queues_half'])
def test_queues_and_keys_are_identical_after_every_step(one, ranks, name):
    assert one[name][-1]['pixel.count'].tolist() == [70, 70, 70]
    for result in ranks:
        for expected, state in zip(one[name], result[name], strict=True):
            for key, value in expected.items():
                assert torch.equal(state[key], value), key


def test_the_row_queue_is_identical_after_every_step(one, ranks):
    assert [state['ring.count'].item() for state in one['row_queue']] == [6, 12, 14]
    for result in ranks:
        for expected, state in zip(one['row_queue'], result['row_queue'], strict=True):
            for key, value in expected.items():
                assert torch.equal(state[key], value), key


def test_keeping_the_local_slice_would_lose_the_world_size(one, ranks):
    ratio = ranks[0]['whole_mutated']['grad'] / one['whole']['grad']
    torch.testing.assert_close(ratio, torch.full_like(ratio, 1 / len(ranks)), **CLOSE)
    wrong, right = ranks[0]['p2p_mutated']['grad'], one['p2p']['grad']
    assert (wrong - right).norm() > 0.1 * right.norm()


def test_memory_terms_are_not_trivial(one):
    assert one['memory']['value'] > 0.01
    assert all(grad.norm() > 1e-4 for grad in one['memory']['grads'])
