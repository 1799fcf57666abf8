"""Soft filter pruning in real runs: what checkpoints, validations and resumed runs see."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS, MODELS, OPTIM_WRAPPERS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn

pytest.importorskip('mmpretrain')

from kdmm.engine import build_runner  # noqa: E402
from kdmm.errors import TrainingError  # noqa: E402
from kdmm.hooks.soft_filter_pruning import SoftFilterPruningHook  # noqa: E402
from kdmm.pruning import PruningSchedule  # noqa: E402
from kdmm.registry import HOOKS  # noqa: E402
from tests.e2e.job import assert_same  # noqa: E402
from tests.e2e.tiny_hssakd import Run, classifier, config, train, write_images  # noqa: E402
from tests.errors import refused  # noqa: E402
from tests.ranks import on_ranks  # noqa: E402

#: Of the 7 convolutions of ResNet-8 outside of shortcuts, with widths 4, 4, 4, 8.
FILTERS, HALF = 5 * 4 + 2 * 8, 18
HOOK = dict(type='kdmm.SoftFilterPruningHook', prune_rate=0.5, alpha_end=1.0)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp('images'))


@HOOKS.register_module(force=True)
class ZeroWatch(Hook):
    """Counts zero filters when things happen, and can do what a test needs in between."""

    priority = 'VERY_HIGH'
    seen: list[tuple[str, int]] = []
    disturb = False

    def before_train_epoch(self, runner: Any) -> None:
        self.seen.append(('epoch', zeros(runner.model)))

    def before_val_epoch(self, runner: Any) -> None:
        self.seen.append(('val', zeros(runner.model)))

    def after_train(self, runner: Any) -> None:
        if self.disturb:
            nn.init.normal_(runner.model.backbone.stem[0].weight)


def zeros(model: Any, prefix: str = '') -> int:
    """Zero filters of all convolutions of a model or a state dict."""
    state = model if isinstance(model, dict) else model.state_dict()
    return sum(
        int((~value.flatten(1).any(1)).sum())
        for key, value in state.items()
        if value.ndim == 4 and key.startswith(prefix)
    )


def pruned(data: Path, folder: Path, epochs: int = 2, hooks: Any = (), **options: Any) -> Config:
    """A config; ``options`` of the hook, or dotted ones of the config."""
    own = {key: options.pop(key) for key in list(options) if '__' not in key and key != 'kd'}
    cfg = config(data, folder, epochs=epochs, **options)
    cfg.reproducible = True  # a resumed run draws what the whole one drew
    cfg.custom_hooks = [dict(type='kdmm.ZeroWatch'), {**HOOK, **own}, *hooks]
    ZeroWatch.seen, ZeroWatch.disturb = [], False
    return cfg


def test_checkpoints_and_validation_see_the_pruned_weights(data: Path, tmp_path: Path) -> None:
    run = train(pruned(data, tmp_path, method='sfp'))
    assert run.runner.iter == 6
    assert ZeroWatch.seen == [(at, HALF) for at in ('epoch', 'val') * 2]
    for file in run.files():  # epoch_1, epoch_2, the best
        assert zeros(run.file(file.name)['state_dict']) == HALF
    hub = run.runner.message_hub
    found = {key: hub.get_scalar(f'train/{key}').data[0].tolist()
             for key in ('prune_alpha', 'prune_rate', 'zero_filters')}  # fmt: skip
    assert found == dict(prune_alpha=[0.0] * 3, prune_rate=[0.5] * 3, zero_filters=[HALF] * 3)


def test_weights_fade_and_are_zero_at_the_end(data: Path, tmp_path: Path) -> None:
    run = train(pruned(data, tmp_path, epochs=3, alpha='linear', rate='asymptotic', D=1.0))
    counts = dict.fromkeys(('epoch', 'val'), 0)
    assert ZeroWatch.seen[:-1] == [(at, counts[at]) for at in ('epoch', 'val') * 2] + [('epoch', 0)]
    assert ZeroWatch.seen[-1] == ('val', HALF)
    hub = run.runner.message_hub
    made = PruningSchedule(0.5, 3, alpha='linear', rate='asymptotic', D=1.0, alpha_end=1.0)
    for key, at in (('prune_alpha', made.alpha_at), ('prune_rate', made.rate_at)):
        assert hub.get_scalar(f'train/{key}').data[0].tolist() == [at(t) for t in (0, 0, 1, 2)]


def resumed(cfg: Config, file: str | None = None) -> Run:
    cfg = copy.deepcopy(cfg)
    cfg.resume, cfg.load_from = True, file and str(Path(cfg.work_dir, file))
    runner = build_runner(cfg)
    runner.train()
    return Run(cfg, runner)


@pytest.mark.parametrize(
    ('interval', 'file'),
    [
        (2, 'iter_2.pth'),  # within the first epoch, behind the update that precedes it
        (3, 'iter_3.pth'),  # behind an epoch's last iteration, but in front of its update
        (3, 'iter_9.pth'),  # likewise, of the last epoch
        (None, 'epoch_1.pth'),
    ],
)
def test_resumed_runs_equal_whole_ones(
    data: Path, tmp_path: Path, interval: int | None, file: str
) -> None:
    """No update is left out or made twice; with a factor between 0 and 1 either would show."""
    options: dict[str, Any] = dict(alpha='constant', alpha0=0.5, epochs=3)
    if interval:
        options |= dict(default_hooks__checkpoint=dict(
            type='CheckpointHook', by_epoch=False, interval=interval))  # fmt: skip
    cfg = pruned(data, tmp_path, **options)
    whole = train(cfg)
    again = resumed(cfg, file)
    assert again.runner.iter == whole.runner.iter == 9
    assert_same(whole.model.state_dict(), again.model.state_dict(), 'weights')
    assert_same(
        whole.runner.optim_wrapper.state_dict(), again.runner.optim_wrapper.state_dict(), 'state'
    )


def test_first_update_of_a_run_that_starts_from_a_file(data: Path, tmp_path: Path) -> None:
    first = train(pruned(data, tmp_path / 'dense', method='sfp', epochs=1, prune_rate=0.25))
    cfg = pruned(data, tmp_path / 'second', method='sfp', epochs=1)
    cfg.load_from = str(first.folder / 'epoch_1.pth')
    train(cfg)
    assert ZeroWatch.seen[0] == ('epoch', HALF)


def test_interval(data: Path, tmp_path: Path) -> None:
    """The second of three epochs, and the last one in any case."""
    run = train(pruned(data, tmp_path, epochs=3, interval=2, alpha='linear'))
    found = run.runner.message_hub.get_scalar('train/prune_alpha').data[0].tolist()
    assert found == pytest.approx([1.0, 2 / 3, 0.0])


def by_iterations(data: Path, folder: Path, **options: Any) -> Config:
    """Six iterations, two validations and checkpoints."""
    cfg = pruned(data, folder, **options)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=6, val_interval=3)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=3)
    return cfg


def test_loops_over_iterations(data: Path, tmp_path: Path) -> None:
    run = train(by_iterations(data, tmp_path, interval_iters=2, method='sfp', rate='poly'))
    seen = [count for at, count in ZeroWatch.seen if at == 'val']
    assert seen[1] == HALF == zeros(run.file('iter_6.pth')['state_dict'])
    rates = run.runner.message_hub.get_scalar('train/prune_rate').data[0].tolist()
    made = PruningSchedule(0.5, 3, rate='poly')
    assert rates == [made.rate_at(t) for t in (0, 0, 1, 2)]


def test_an_interval_that_does_not_divide_the_run(data: Path, tmp_path: Path) -> None:
    run = train(by_iterations(data, tmp_path, interval_iters=4, method='sfp'))
    assert zeros(run.model) == HALF
    assert len(run.runner.message_hub.get_scalar('train/prune_rate').data[0]) == 3


def test_loops_that_do_not_fit(data: Path, tmp_path: Path) -> None:
    for options, fits in ((dict(), 'iterations'), (dict(interval_iters=7), 'at most')):
        with refused(key='interval_iters', expected=fits):
            train(by_iterations(data, tmp_path, **options))
    with refused(key='interval_iters', fix='interval'):
        train(pruned(data, tmp_path, interval_iters=2))


def test_averages_of_weights(data: Path, tmp_path: Path) -> None:
    average = [dict(type='EMAHook', momentum=0.3)]
    with refused(key='allow_ema', fix='allow_ema=True'):
        train(pruned(data, tmp_path, hooks=average))
    run = train(pruned(data, tmp_path, hooks=average, allow_ema=True, method='sfp'))
    kept = run.file('epoch_2.pth')
    # the averages are the network of the file, and what was trained stands beside them
    assert zeros(kept['state_dict']) == HALF == zeros(kept['ema_state_dict'], 'module.')
    dead = {k: ~v.flatten(1).any(1) for k, v in kept['state_dict'].items() if v.ndim == 4}
    other = {k: ~v.flatten(1).any(1) for k, v in kept['ema_state_dict'].items() if v.ndim == 4}
    assert_same(dead, {key.removeprefix('module.'): value for key, value in other.items()}, 'dead')
    assert ('val', HALF) in ZeroWatch.seen


@HOOKS.register_module(force=True)
class StopAfterFirst(Hook):
    """Ends training as EarlyStoppingHook does."""

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        runner.train_loop.stop_training = True


def test_a_run_that_stops_early_says_how_to_finish(data: Path, tmp_path: Path) -> None:
    cfg = pruned(data, tmp_path, epochs=3, hooks=[dict(type='kdmm.StopAfterFirst')])
    runner = build_runner(cfg)
    with mock.patch.object(runner.logger, 'warning') as said:
        runner.train()
    text = ' '.join(str(call.args[0]) for call in said.call_args_list)
    assert runner.epoch == 1 and 'finalize' in text and f'{HALF} would be' in text


def test_what_changes_the_filters_afterwards_is_an_error(data: Path, tmp_path: Path) -> None:
    cfg = pruned(data, tmp_path, epochs=1)
    ZeroWatch.disturb = True
    with pytest.raises(TrainingError, match=f'{HALF - 2} filters.*{HALF} should'):
        train(cfg)


def test_pruning_while_distilling(data: Path, tmp_path: Path) -> None:
    """The student's filters alone; what the section adds stays (a teacher is hashed anyway)."""
    kd = dict(
        teacher=dict(model=classifier(), random=True),
        taps=dict(stage='backbone.stages.1.out', logits='head.fc.out'),
        losses=dict(
            fit=dict(type='FitNetLoss', on='stage', connector=dict(type='Projection', norm=True)),
            kd=dict(type='KDLoss', on='logits'),
        ),
    )
    run = train(pruned(data, tmp_path, kd=kd, method='sfp'))
    assert zeros(run.model, 'backbone.') == HALF
    assert zeros(run.model, 'kd.') == 0 and any(
        value.ndim == 4 for key, value in run.model.state_dict().items() if key.startswith('kd.')
    )
    assert zeros(run.file('epoch_2.pth')['state_dict']) == HALF


def test_decay_of_norms(data: Path, tmp_path: Path) -> None:
    run = train(pruned(data, tmp_path, method='sfp', decay_bn=True))
    state = run.model.state_dict()
    assert zeros(state) == HALF
    dead = ~state['backbone.stem.0.weight'].flatten(1).any(1)
    for key in ('weight', 'bias'):
        assert torch.equal(state[f'backbone.stem.1.{key}'] == 0, dead)


def of_rank(data: str, folder: str) -> dict[str, torch.Tensor]:
    with mock.patch('mmengine.runner.runner.collect_env', dict):
        cfg = pruned(Path(data), Path(folder), alpha='constant', alpha0=0.5)
        cfg.launcher = 'pytorch'
        return train(cfg).model.module.state_dict()


def test_ranks_prune_the_same_filters(data: Path, tmp_path: Path) -> None:
    first, second = on_ranks(of_rank, 2, str(data), str(tmp_path))
    weights = {key: value for key, value in first.items() if 'running' not in key}
    assert_same(weights, {key: second[key] for key in weights}, 'weights')
    assert zeros(first) == HALF


@pytest.mark.parametrize('name', ['MMFullyShardedDataParallel', 'MMDeepSpeedEngineWrapper'])
def test_sharded_models_are_refused(name: str) -> None:
    kind = MODEL_WRAPPERS.get(name)
    assert isinstance(kind, type)
    runner = SimpleNamespace(model=kind.__new__(kind))
    with refused(key='model_wrapper_cfg.type', got=name, fix='DDP'):
        SoftFilterPruningHook(0.5).before_train(runner)


def start(model: nn.Module, hooks: Any = (), every: int = 1, by_epoch: bool = True, **options: Any):
    """A hook that has begun a training of 20 epochs or iterations, and the warnings."""
    kind: Any = EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop
    loop = kind.__new__(kind)
    loop._max_epochs = loop._max_iters = 20
    loop.val_interval = every
    runner = mock.Mock(model=model, hooks=hooks, train_loop=loop, iter=1)
    hook = SoftFilterPruningHook(**{**dict(prune_rate=0.5), **options})
    hook.before_train(runner)
    return hook, [str(call.args[0]) for call in runner.logger.warning.call_args_list]


def test_stages_that_freeze_when_training_begins() -> None:
    """Many backbones freeze in train() alone, which the loop calls after the hooks."""
    kind = dict(type='mmpretrain.MobileNetV2', widen_factor=0.25, frozen_stages=2)
    hook, _ = start(MODELS.build(kind))
    assert len(hook.layers) == 29
    assert all(conv.weight.requires_grad for _, conv, _ in hook.layers)


def test_rates_below_one_filter() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 10, 3))
    with refused(key='prune_rate', got=0.09, problem='10', expected='0.1'):
        start(net, prune_rate=0.09)
    start(net, prune_rate=0.1)
    start(net, prune_rate=0.09, granularity='weight')


def test_norms_that_cannot_come_back() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    start(net, decay_bn=True)
    net[1].requires_grad_(False)  # as detectors are fine-tuned
    start(net)
    with refused(key='decay_bn', problem='frozen', fix='Leave it out'):
        start(net, decay_bn=True)
    net[1] = nn.BatchNorm2d(8, affine=False)
    with refused(key='decay_bn', problem='no weight'):
        start(net, decay_bn=True)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(hooks=[CheckpointHook(interval=4)], every=2, interval=2), []),
        (dict(hooks=[CheckpointHook(interval=3)], interval=2, every=2), ['checkpoint.interval=3']),
        (dict(every=3, interval=2), ['train_cfg.val_interval=3']),
        (dict(hooks=[CheckpointHook(interval=5, by_epoch=False)]), ['checkpoint.by_epoch=True']),
        (dict(hooks=[CheckpointHook(interval=5, by_epoch=False), CheckpointHook()]), []),
        (dict(hooks=[CheckpointHook(interval=-1)]), []),
        (dict(hooks=[CheckpointHook(interval=5, by_epoch=False), CheckpointHook(interval=2)],
              every=2, interval=2), []),
        (dict(hooks=[CheckpointHook(interval=6, by_epoch=False)], by_epoch=False, every=6,
              interval_iters=3), []),
        (dict(hooks=[CheckpointHook(interval=5, by_epoch=False)], by_epoch=False, every=4,
              interval_iters=3), ['train_cfg.val_interval=4', 'checkpoint.interval=5']),
    ],
)  # fmt: skip
def test_intervals_that_see_trained_filters_are_named(options: Any, said: list[str]) -> None:
    _, warnings = start(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), **options)
    assert len(warnings) == len(said)
    assert all(words in text for words, text in zip(said, warnings, strict=True))


def test_a_layer_does_not_make_up_for_another() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
    hook, _ = start(net)
    runner = mock.Mock(train_loop=SimpleNamespace(stop_training=False))
    for _, conv, _ in hook.layers:
        conv.weight.data[:4] = 0
    hook.after_train(runner)
    net[0].weight.data[:7] = 0
    hook.after_train(runner)  # more than asked for in both layers
    net[2].weight.data[3] = 1
    with pytest.raises(TrainingError, match='10 filters.*8 should.*changed 2 '):
        hook.after_train(runner)


@OPTIM_WRAPPERS.register_module(force=True)
class LowPrecision(OptimWrapper):
    """Autocast on any device; MMEngine's AmpOptimWrapper asks for a GPU."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast('cpu', torch.bfloat16):
            yield


def test_autocast_leaves_weights_in_float32(data: Path, tmp_path: Path) -> None:
    """Kept filters have bits that bfloat16 lacks."""
    run = train(pruned(data, tmp_path, epochs=1, optim_wrapper__type='LowPrecision', method='sfp'))
    assert zeros(run.model) == HALF
    weight = run.model.backbone.stem[0].weight
    assert weight.dtype == torch.float32 and not torch.equal(weight, weight.bfloat16().float())


def test_norms_that_are_not_known(data: Path, tmp_path: Path) -> None:
    kind = dict(type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4,
                norm_cfg=dict(type='GN', num_groups=2))  # fmt: skip
    cfg = pruned(data, tmp_path, decay_bn=True)
    cfg.model = classifier(kind)
    with refused(key='decay_bn', fix='exclude'):
        train(cfg)


@pytest.mark.parametrize(
    'wrong',
    [
        dict(prune_rate=0.0), dict(prune_rate=1), dict(method='srf'), dict(interval=0),
        dict(interval=None), dict(interval_iters=0), dict(interval_iters=1.5), dict(norm=0),
        dict(granularity='channel'), dict(rate='poly3'), dict(alpha='cos'),
    ],
)  # fmt: skip
def test_refused(wrong: dict[str, Any]) -> None:
    (key,) = wrong
    with refused(key=key):
        SoftFilterPruningHook(**{**dict(prune_rate=0.5), **wrong})
    with refused(key='granularity'):
        SoftFilterPruningHook(0.5, granularity='weight', decay_bn=True)
