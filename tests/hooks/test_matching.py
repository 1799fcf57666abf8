"""The start of a mean of a matching, and the file of it; in a run: test_configs.py."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn

from kdmm.distillers.objective import Objective
from kdmm.hooks import MatchingHook
from kdmm.losses import LMCLLoss
from kdmm.visualization import matching_sheet
from tests.errors import refused


class Holder(Objective):
    """An objective that has some loss."""

    def forward(self, own: Any, inputs: Any, samples: Any) -> dict[str, torch.Tensor]:
        return {}


class Run(SimpleNamespace):
    """A run as the hook sees it: a loop without data, and a list of the images that it is given."""

    def __init__(self, work_dir: Path, loss: nn.Module | None, kind: type, interval: int) -> None:
        loop = kind.__new__(kind)
        loop.val_interval = interval
        student = nn.Linear(1, 1)
        student.kd = Holder()
        if loss is not None:
            student.kd.loss = loss
        super().__init__(train_loop=loop, work_dir=str(work_dir), model=student, iter=0, shown=[])
        self.visualizer = SimpleNamespace(add_image=self.show)

    def show(self, name: str, image: np.ndarray, step: int) -> None:
        self.shown.append((name, image, step))


def small_loss() -> LMCLLoss:
    torch.manual_seed(0)
    return LMCLLoss([(6,) * 2, (5,) * 3], dim=4)


def step(loss: LMCLLoss) -> None:
    stages = [[torch.randn(4, 6) for _ in range(2)], [torch.randn(4, 5) for _ in range(3)]]
    loss(stages, torch.tensor([0, 0, 1, 1]))


def trained(
    work_dir: Path, kind: type, interval: int, batches: list[tuple[int, int]]
) -> tuple[Run, list[int]]:
    """Run iterations (their number, place in the epoch): steps in the mean after each."""
    loss = small_loss()
    run, hook, counts = Run(work_dir, loss, kind, interval), MatchingHook(), []
    hook.before_train(run)
    for iteration, place in batches:
        run.iter = iteration
        hook.before_train_epoch(run)  # a loop without epochs calls it on resuming
        hook.before_train_iter(run, place)
        step(loss)
        counts.append(int(loss.matched_steps))
    return run, counts


def test_an_epoch_has_a_mean_of_its_own(tmp_path: Path) -> None:
    batches = [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1)]
    assert trained(tmp_path, EpochBasedTrainLoop, 1, batches)[1] == [1, 2, 3, 1, 2]


def test_a_run_that_goes_on_within_an_epoch_goes_on_with_its_mean(tmp_path: Path) -> None:
    loss = small_loss()
    step(loss)
    run = Run(tmp_path, loss, EpochBasedTrainLoop, 1)
    MatchingHook().before_train_iter(run, 1)
    assert loss.matched_steps == 1


def test_without_epochs_the_validation_interval_counts(tmp_path: Path) -> None:
    batches = [(at, at) for at in range(7)]
    assert trained(tmp_path, IterBasedTrainLoop, 3, batches)[1] == [1, 2, 3, 1, 2, 3, 1]
    resumed = trained(tmp_path, IterBasedTrainLoop, 3, [(4, 0), (5, 1), (6, 2)])[1]
    assert resumed == [1, 2, 1]


def test_the_picture_is_of_the_mean(tmp_path: Path) -> None:
    run, _ = trained(tmp_path, EpochBasedTrainLoop, 1, [(0, 0), (1, 1), (2, 0)])
    run.iter = 3
    MatchingHook().after_train(run)
    loss = run.model.kd.loss
    expected = matching_sheet(loss.matched.numpy(), loss.matching_rows())
    ((name, image, at),) = run.shown
    assert (name, at) == ('matching', 3) and np.array_equal(image, expected)
    written = cv2.imread(str(tmp_path / 'matching.png'))
    assert np.array_equal(written[..., ::-1], expected)


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = trained(tmp_path, EpochBasedTrainLoop, 1, [(0, 0)])
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: 1)
    MatchingHook().after_train(run)
    assert not run.shown and not list(tmp_path.iterdir())


def test_there_is_something_to_draw(tmp_path: Path) -> None:
    with refused(key='custom_hooks', got='kdmm.MatchingHook'):
        MatchingHook().before_train(Run(tmp_path, None, EpochBasedTrainLoop, 1))
