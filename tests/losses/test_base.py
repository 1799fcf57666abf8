"""Defaults of a loss that declares nothing, and a loss with its own optimizer."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from kdmm.losses import Batch, DistillLoss, KDLoss, OwnedOptimizer
from kdmm.losses.base import WHOLE
from tests.ranks import on_ranks


class Plain(DistillLoss):
    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return (student - teacher).square().mean()


class Critic(DistillLoss):
    """A critic that is trained by an optimizer of its own."""

    one_activation = True

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.critic = nn.Linear(3, 1)
        self.optimizer = OwnedOptimizer(self.critic, partial(torch.optim.Adam, lr=0.1))

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return self.critic(student - teacher).mean()

    def after_step(self, batch: Batch) -> None:
        with self.optimizer.learning():
            self.optimizer.step(self.critic(batch.inputs).square().mean())


def test_defaults():
    loss = Plain()
    assert (loss.needs, loss.parts, loss.logged, loss.memory_bytes()) == ((), (WHOLE,), {}, 0)
    assert not (loss.stateful or loss.mutual or loss.one_activation or loss.blockwise)
    assert loss.valid_only is None
    loss.check(torch.zeros(1), torch.zeros(2))
    assert loss.rows_in(torch.ones(3, 2)) == 3 and loss.rows_in((1, 2)) == 0
    assert loss.least_batch(1) == loss.least_batch(0) == 1
    loss.see_dataset(None)
    loss.after_step(Batch(None, ()))
    state = dict(a=1)
    loss.upgrade(state, '')
    assert state == dict(a=1)
    assert Plain().logged is not loss.logged


def test_unknown_context_is_refused():
    with pytest.raises(TypeError, match='label'):
        KDLoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), label=None)


def test_its_parameters_are_left_alone_outside_of_its_step():
    loss, batch = Critic(), Batch(torch.ones(4, 3), ())
    student = torch.randn(4, 3, requires_grad=True)
    loss(student, torch.zeros(4, 3)).backward()
    assert student.grad is not None and not any(p.requires_grad for p in loss.parameters())
    before = [p.clone() for p in loss.parameters()]
    with torch.no_grad():  # hooks run without gradients
        loss.after_step(batch)
    assert not any(torch.equal(*pair) for pair in zip(before, loss.parameters(), strict=True))
    assert not any(p.requires_grad or p.grad is not None for p in loss.parameters())


def test_the_steps_are_those_of_the_plain_optimizer():
    loss, batch = Critic(), Batch(torch.randn(4, 3), ())
    plain = copy.deepcopy(loss.critic).requires_grad_(True)
    adam = torch.optim.Adam(plain.parameters(), lr=0.1)
    for _ in range(3):
        loss.after_step(batch)
        adam.zero_grad()
        plain(batch.inputs).square().mean().backward()
        adam.step()
    for mine, expected in zip(loss.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=0)


def test_copies_and_saved_states_go_on_to_the_bit():
    loss, batch = Critic(), Batch(torch.randn(4, 3), ())
    loss.after_step(batch)
    again = Critic()
    again.load_state_dict(loss.state_dict())
    others = [again, copy.deepcopy(loss)]
    for made in (loss, *others):
        made.after_step(batch)
    for other in others:
        assert other.optimizer.optimizer is not loss.optimizer.optimizer
        for mine, theirs in zip(loss.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine, theirs)


def step_on_my_rows(rows: torch.Tensor) -> list[torch.Tensor]:
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    loss = Critic()
    for _ in range(2):
        loss.after_step(Batch(rows.chunk(size)[rank], ()))
    return [p.detach() for p in loss.parameters()]


def test_two_ranks_learn_what_one_does():
    rows = torch.randn(4, 3)
    loss = Critic()
    for _ in range(2):
        loss.after_step(Batch(rows, ()))
    for found in on_ranks(step_on_my_rows, 2, rows):
        for mine, theirs in zip(loss.parameters(), found, strict=True):
            torch.testing.assert_close(mine, theirs)
