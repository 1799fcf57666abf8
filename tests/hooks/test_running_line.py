import copy
import json
import logging

import pytest
import torch
from mmengine.hooks import Hook

from kdmm.distillers.gradient_ratio import Share
from kdmm.engine import Runner
from kdmm.hooks.ownership import objective_of
from kdmm.hooks.running_line import RunningLineHook, state_of
from kdmm.registry import MODELS
from tests.distillers.tiny_models import Distance
from tests.engine.tiny_run import KD, by_epoch, config

NAMES = {'kd', 'parts_one', 'parts_two'}
KEYS = {f'kd.{what}_{name}' for what in ('share', 'weight') for name in NAMES}


class Watch(Hook):
    """The shares of each iteration, as the objective left them."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.seen: list[dict] = []

    def after_train_iter(self, runner, *_, **__):
        shares = objective_of(runner.model).shares
        self.seen.append({share.label: float(share.share) for share in shares})


def run(cfg) -> tuple[Runner, Watch]:
    made, watch = Runner.from_cfg(cfg), Watch()
    made.register_hook(watch)
    made.train()
    return made, watch


def lines(tmp_path) -> list[dict]:
    (path,) = tmp_path.glob('*/vis_data/scalars.json')
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in found if 'iter' in line and 'loss' in line]


def every(interval: int) -> dict:
    return dict(default_hooks__logger__interval=interval)


def test_the_log_has_the_weights_and_shares_of_the_iteration_it_is_written_in(tmp_path):
    _, watch = run(config(tmp_path, iters=7, **every(3)))
    assert [bool(seen) for seen in watch.seen] == [False, False, True, False, False, True, False]
    written = lines(tmp_path)
    assert [line['iter'] for line in written] == [3, 6]
    for line, seen in zip(written, (watch.seen[2], watch.seen[5]), strict=True):
        assert {key for key in line if 'share' in key or 'weight' in key} == KEYS
        assert {name: line[f'kd.share_{name}'] for name in NAMES} == pytest.approx(seen)
        assert line['kd.weight_kd'] == 1.0 and line['kd.weight_parts_one'] == 0.1


def test_the_total_is_the_sum_of_the_losses_only(tmp_path):
    """Even of a term whose name has 'loss' and 'time' in it, on which MMEngine acts."""
    kd = copy.deepcopy(KD)
    kd['losses'] = dict(loss_time=dict(type='KDLoss', on='logits'))
    _, watch = run(config(tmp_path, kd, iters=3, default_hooks__logger__interval=1))
    for line, seen in zip(lines(tmp_path), watch.seen, strict=True):
        assert line['kd.share_loss_time'] == pytest.approx(seen['loss_time'])
    first = lines(tmp_path)[0]
    own = [first[key] for key in ('loss_ce', 'loss_aux', 'kd.loss_loss_time')]
    assert first['loss'] == pytest.approx(sum(own), rel=1e-5)


def test_the_last_iteration_of_an_epoch_is_logged_and_measured(tmp_path):
    """4 iterations an epoch; MMEngine writes the last if it is asked to."""
    options = {**every(3), 'default_hooks__logger__ignore_last': False}
    _, watch = run(by_epoch(config(tmp_path / 'a', **options)))
    assert [bool(seen) for seen in watch.seen] == [False, False, True, True] * 2
    _, watch = run(by_epoch(config(tmp_path / 'b', **every(3))))
    assert [bool(seen) for seen in watch.seen] == [False, False, True, False] * 2
    _, watch = run(by_epoch(config(tmp_path / 'c', **every(50))))
    assert [bool(seen) for seen in watch.seen] == [False, False, False, True] * 2


def test_it_can_be_turned_off(tmp_path):
    _, watch = run(config(tmp_path, {**KD, 'measure': False}, **every(1)))
    assert not any(watch.seen) and not any('share' in key for key in lines(tmp_path)[0])


@pytest.mark.parametrize('accumulate', [1, 2])
def test_measuring_changes_no_parameter_to_the_bit(tmp_path, accumulate):
    states = []
    for measure in (False, True):
        cfg = config(tmp_path / str(measure), {**copy.deepcopy(KD), 'measure': measure}, iters=5)
        cfg.default_hooks.logger.interval = 1
        cfg.optim_wrapper.accumulative_counts = accumulate
        made, watch = run(cfg)
        assert all(watch.seen) == measure
        states.append(made.model.state_dict())
    assert all(torch.equal(states[1][key], value) for key, value in states[0].items())


def test_gradient_accumulation_changes_no_share(tmp_path):
    """Both losses are divided alike."""
    seen = []
    for accumulate in (1, 2):
        cfg = config(tmp_path / str(accumulate), iters=1, **every(1))
        cfg.optim_wrapper.accumulative_counts = accumulate
        seen.append(run(cfg)[1].seen)
    assert seen[0] == seen[1]


def test_diagnostics_of_a_loss_are_in_the_log(tmp_path):
    @MODELS.register_module(force=True)
    class Logging(Distance):
        def after_step(self, batch: object) -> None:
            self.logged = dict(real=torch.tensor(len(steps) + 0.5), d_loss=100.0)
            steps.append(1)

    steps: list = []
    kd = copy.deepcopy(KD)
    kd['losses'] = dict(adv=dict(type='Logging', on='logits'))
    run(config(tmp_path, kd, iters=4, **every(2)))
    written = lines(tmp_path)
    assert [line['kd.adv_real'] for line in written] == [1.5, 3.5]
    assert all(line['kd.adv_d_loss'] == 100 and line['loss'] < 50 for line in written)


# warnings


@pytest.mark.parametrize(
    'share, state',
    [(0.0, 'zero'), (float('nan'), 'not finite'), (float('inf'), 'not finite'), (0.0099, 'small'),
     (0.01, ''), (1.0, ''), (10.0, ''), (10.1, 'large'), (1e-30, 'small')],
)  # fmt: skip
def test_states(share, state):
    assert state_of(share) == state


class Fake:
    """As much of a runner as the hook needs."""

    hooks: tuple = ()
    train_dataloader: tuple = ()

    def __init__(self) -> None:
        self.said: list[str] = []
        self.logger = self

    def warning(self, text: str) -> None:
        self.said.append(text)


def judge(*values: float, wanted: bool = True) -> list[str]:
    hook, fake = RunningLineHook(), Fake()
    for value in values:
        hook._judge(fake, Share('p_one', 'body', 0.25, 2.0, value, wanted))
    return fake.said


@pytest.mark.parametrize(
    'value, words',
    [
        (0.0, ('is 0 of', 'zero', 'labels')),
        (float('nan'), ('is nan of', 'not finite', 'temperature')),
        (0.001, ('is 0.001 of', 'small', "'auto:0.1'")),
        (25.0, ('is 25 of', 'large', 'lower the weight')),
    ],
)
def test_a_warning_names_term_value_weight_and_what_to_do(value, words):
    (text,) = judge(value)
    for word in (r'kd.losses.p_one', 'loss 0.25', 'weight 2', 'body', *words):
        assert word in text


def test_a_warning_is_given_when_the_state_changes():
    assert judge(1.0, 0.1) == []
    assert len(judge(0.001, 0.002, 0.003)) == 1
    assert len(judge(0.001, 20.0, 30.0)) == 2
    assert len(judge(0.001, 0.5, 0.001)) == 2
    assert judge(0.0, 0.0, wanted=False) == []


def test_warnings_of_a_run(tmp_path):
    kd = copy.deepcopy(KD)
    kd['losses'] = dict(
        much=dict(type='KDLoss', on='logits', weight=1e5),
        little=dict(type='KDLoss', on='logits', weight=1e-6),
        nothing=dict(type='Distance', on='logits', scale=0.0),
        fine=dict(type='KDLoss', on='logits', weight='auto:0.5'),
    )
    cfg = config(tmp_path, kd, iters=4, **every(1))
    cfg.log_level = 'WARNING'
    made = Runner.from_cfg(cfg)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    made.logger.addHandler(handler)
    made.train()
    told = [text for text in said if text.startswith('kd.losses.')]
    assert [text.split()[0] for text in told] == [
        f'kd.losses.{name}' for name in ('much', 'little', 'nothing')
    ]
    for text, state in zip(told, ('large', 'small', 'zero'), strict=True):
        assert f'{state}: ' in text
