"""Uses of the metrics of branches that are refused; their values: tests/e2e/test_cohort.py."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('mmpretrain')

from kdmm.engine import build_runner  # noqa: E402
from tests.e2e.tiny_hssakd import Run, config, train, write_images  # noqa: E402
from tests.errors import refused  # noqa: E402


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp('images'))


def cohort(data: Path, folder: Path, evaluate: Any = True, **changes: Any) -> Any:
    branches = dict(stages='inner', evaluate=evaluate)
    kd = dict(type='Cohort', peers=2, branches=branches)
    return config(data, folder, kd, epochs=1, **changes)


def logged(run: Run) -> set[str]:
    return {key for key in run.runner.message_hub.log_scalars if key.startswith('val/')}


@pytest.mark.parametrize(
    'metric', ['stage1/accuracy/top1', 'peer1/stage2/accuracy/top1', 'aggregated/accuracy/top1']
)
def test_no_checkpoint_is_chosen_by_a_branch(data: Path, tmp_path: Path, metric: str) -> None:
    cfg = cohort(data, tmp_path, default_hooks__checkpoint__save_best=metric,
                 default_hooks__checkpoint__rule='greater')  # fmt: skip
    with refused(key='default_hooks.checkpoint.save_best', got=metric):
        build_runner(cfg).train()


def test_branches_are_not_averaged(data: Path, tmp_path: Path) -> None:
    average = dict(custom_hooks=[dict(type='EMAHook')])
    with refused(key='kd.branches.evaluate', fix='False'):
        build_runner(cohort(data, tmp_path / 'one', **average)).train()
    run = train(cohort(data, tmp_path / 'other', False, **average))
    assert {'val/accuracy/top1', 'val/peer1/accuracy/top1'} <= logged(run)
    assert not [key for key in logged(run) if 'stage' in key]


def test_without_a_mix_there_are_branches_alone(data: Path, tmp_path: Path) -> None:
    found = logged(train(cohort(data, tmp_path)))
    stages = {f'val/{peer}stage{i}/accuracy/top1' for peer in ('', 'peer1/') for i in (1, 2)}
    assert stages <= found and not [key for key in found if 'aggregated' in key]


def test_evaluate_is_a_flag(data: Path, tmp_path: Path) -> None:
    with refused(key='kd.branches.evaluate', got='no'):
        build_runner(cohort(data, tmp_path, 'no'))
