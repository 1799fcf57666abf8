"""Soft filter pruning while a model trains: SFP, ASFP, SRFP and ASRFP."""

from collections.abc import Sequence
from typing import Any, cast

from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.model import MMSeparateDistributedDataParallel, is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.nn.parallel import DataParallel, DistributedDataParallel

from kdmm.errors import ConfigError, TrainingError, listed
from kdmm.pruning.schedule import METHODS, AlphaForm, PruningSchedule, RateForm
from kdmm.pruning.selection import Prunable, in_copy, select_prunable
from kdmm.pruning.update import Granularity, prune, pruned_count, zero_count
from kdmm.registry import HOOKS
from kdmm.utils.models import unwrapped

#: Wrappers in which every process has all weights.
WHOLE = (DataParallel, DistributedDataParallel, MMSeparateDistributedDataParallel)


@HOOKS.register_module()
class SoftFilterPruningHook(Hook):
    """Scales the filters with the lowest norms of each layer by a factor that falls to 0.

    After each epoch, before its checkpoint and its validation. The filters train on and are ranked
    anew each time, until at the end of training they are zero; ``tools/prune.py`` then builds the
    network without them. SFP (IJCAI 2018) and ASFP (arXiv 1808.07471) set them to zero from the
    start, SRFP and ASRFP (arXiv 2010.09498) let them fade; in ASFP and ASRFP the rate grows. The
    schedules are those of `PruningSchedule`.

    The hook has no state: an update depends on the epoch and the weights alone. One update is made
    in front of the first epoch, if nothing was resumed.

    Args:
        prune_rate: Share of each layer's filters, above 0 and below 1.
        method: ``'sfp'``, ``'asfp'``, ``'srfp'`` or ``'asrfp'``: what ``alpha0`` and ``rate`` are
            unless they are given.
        alpha0: See `PruningSchedule`, as are the next seven.
        rate: ``'constant'``, ``'asymptotic'`` or ``'poly'``.
        alpha: ``'exponential'``; others for ablations.
        sigma: End of the exponential.
        D: Of the asymptotic rate.
        alpha_end: Share of training from which on the factor is 0.
        rate_end: Share from which on the rate is ``prune_rate``.
        alpha_zero_below: A smaller factor is 0.
        granularity: ``'filter'``, or ``'weight'`` for single weights.
        decay_bn: See `kdmm.pruning.prune`.
        interval: Epochs from one update to the next; the last epoch has one in any case.
        interval_iters: In a loop over iterations, which has no epochs, iterations from one update
            to the next.
        include: See `select_prunable`.
        exclude: Likewise.
        norm: Order of the norm by which filters are ranked.
        allow_ema: With an `EMAHook`, whose averages have no zero filters: scale the same filters of
            the averages, too.

    Raises:
        ConfigError: Names the argument that cannot be.
    """

    # in front of checkpoints, which are VERY_LOW; epochs are validated after both
    priority = 'NORMAL'

    def __init__(
        self,
        prune_rate: float,
        method: str = 'srfp',
        alpha0: float | None = None,
        rate: RateForm | None = None,
        alpha: AlphaForm = 'exponential',
        sigma: float = 1e-5,
        D: float = 0.125,
        alpha_end: float = 0.9,
        rate_end: float = 0.95,
        alpha_zero_below: float = 0.0,
        granularity: Granularity = 'filter',
        decay_bn: bool = False,
        interval: int = 1,
        interval_iters: int | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        norm: float = 2,
        allow_ema: bool = False,
    ) -> None:
        if method not in METHODS:
            raise ConfigError(key='method', got=method, expected=f'one of {", ".join(METHODS)}')
        first, course = METHODS[method]
        self.forms: dict[str, Any] = dict(
            prune_rate=prune_rate,
            alpha0=first if alpha0 is None else alpha0,
            rate=course if rate is None else rate,
            alpha=alpha,
            sigma=sigma,
            D=D,
            alpha_end=alpha_end,
            rate_end=rate_end,
            alpha_zero_below=alpha_zero_below,
        )
        PruningSchedule(updates=1, **self.forms)
        if granularity not in ('filter', 'weight') or (granularity == 'weight' and decay_bn):
            raise ConfigError(
                key='granularity',
                got=granularity,
                expected="'filter', or without decay_bn 'weight'",
            )
        for key, value in (('interval', interval), ('interval_iters', interval_iters)):
            if (type(value) is not int or value < 1) and (key, value) != ('interval_iters', None):
                raise ConfigError(key=key, got=value, expected='a whole number from 1')
        if isinstance(norm, bool) or not isinstance(norm, int | float) or norm <= 0:
            raise ConfigError(key='norm', got=norm, expected='a positive number')
        self.prune_rate = prune_rate
        self.interval, self.interval_iters = interval, interval_iters
        self.include, self.exclude, self.allow_ema = include, exclude, allow_ema
        self.how: dict[str, Any] = dict(norm=norm, granularity=granularity, decay_bn=decay_bn)
        self.layers: list[Prunable] = []
        self.averages: list[list[Prunable]] = []

    def before_train(self, runner: Any) -> None:
        """Choose the layers, and make the first update of a run that was not resumed.

        Raises:
            ConfigError: If nothing can be pruned, the model is sharded, an EMAHook is not allowed
                for, or a loop over iterations has no interval.
        """
        if is_model_wrapper(runner.model) and not isinstance(runner.model, WHOLE):
            raise ConfigError(
                'soft filter pruning ranks whole filters of the weights that are trained, and a '
                'sharded model has parts of them',
                key='model_wrapper_cfg.type',
                got=type(runner.model).__name__,
                fix='Leave model_wrapper_cfg and the strategy out (DDP).',
            )
        self.schedule = PruningSchedule(updates=self._updates(runner.train_loop), **self.forms)
        model = unwrapped(runner.model)
        model.train()  # as the loop does next; many backbones freeze their stages here alone
        self.layers = select_prunable(model, self.include, self.exclude)
        self._check_rate()
        self._warn_of_other_intervals(runner)
        self.averages = [
            in_copy(self.layers, model, cast(Any, hook).ema_model.module)
            for hook in runner.hooks
            if isinstance(hook, EMAHook) and self._allowed()
        ]
        if self.how['decay_bn']:
            self._check_norms()
        filters = sum(conv.out_channels for _, conv, _ in self.layers)
        names = ', '.join(name for name, *_ in self.layers)
        runner.logger.info(
            f'Soft filter pruning of {len(self.layers)} convolutions, {filters} filters, at a rate '
            f'of {self.prune_rate}: {names}'
        )
        if runner.iter == 0:
            self._update(runner, 0)

    def after_train_epoch(self, runner: Any) -> None:
        """Update, in a loop over epochs."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            done = runner.epoch + 1
            if done % self.interval == 0 or done == runner.max_epochs:
                self._update(runner, runner.epoch)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Update, in a loop over iterations."""
        if self.interval_iters is None or isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        done = runner.iter + 1
        if done % self.interval_iters == 0 or done == runner.max_iters:
            self._update(runner, min(runner.iter // self.interval_iters, self.schedule.updates - 1))

    def after_train(self, runner: Any) -> None:
        """Compare the number of zero filters with the rate.

        Raises:
            TrainingError: If a layer has fewer after the last update.
        """
        if self.how['granularity'] == 'weight':
            return
        counts = [zero_count([part]) for part in self.layers]
        least = [pruned_count(part.conv.out_channels, self.prune_rate) for part in self.layers]
        found, wanted = sum(counts), sum(least)
        rows = zip(self.layers, counts, least, strict=True)
        short = [part.name for part, count, wished in rows if count < wished]
        if not short:
            runner.logger.info(f'{found} filters are zero, which tools/prune.py takes out')
        elif getattr(runner.train_loop, 'stop_training', False):
            runner.logger.warning(
                f'Training was stopped early: {found} filters are zero, and {wanted} would be at '
                'its end. kdmm.pruning.finalize(model, prune_rate) sets the lowest to zero; the '
                'weights were then not trained with this mask'
            )
        else:
            raise TrainingError(
                f'{found} filters are zero when training ends, and {wanted} should be: something '
                f'changed {listed(short)} after the last update of the SoftFilterPruningHook'
            )

    def _updates(self, loop: Any) -> int:
        if isinstance(loop, EpochBasedTrainLoop):
            if self.interval_iters is not None:
                raise ConfigError(
                    'updates are made after epochs in this loop',
                    key='interval_iters',
                    got=self.interval_iters,
                    fix='Leave it out, or set interval (epochs).',
                )
            return int(loop.max_epochs)
        if self.interval_iters is None or not isinstance(loop, IterBasedTrainLoop):
            raise ConfigError(
                f'{type(loop).__name__} has no epochs after which filters could be pruned',
                key='interval_iters',
                got=self.interval_iters,
                expected='iterations from one update to the next, such as those of an epoch',
            )
        if self.interval_iters > loop.max_iters:
            raise ConfigError(
                key='interval_iters',
                got=self.interval_iters,
                expected=f'at most the {loop.max_iters} iterations of training',
            )
        return int(loop.max_iters) // self.interval_iters

    def _allowed(self) -> bool:
        if not self.allow_ema:
            raise ConfigError(
                'the averages of an EMAHook, which it puts into checkpoints and validation, have '
                'no zero filters',
                key='allow_ema',
                got=False,
                fix='Leave the EMAHook out, or set allow_ema=True: then the same filters of the '
                'averages are scaled.',
            )
        return True

    def _check_norms(self) -> None:
        for name, _, norm in self.layers:
            trained = norm is not None and [value.requires_grad for value in norm.parameters()]
            if trained and all(trained):
                continue
            if norm is None:
                problem = f'no BatchNorm is known behind {name}'
            elif not trained:
                problem = f'the BatchNorm behind {name} has no weight'
            else:  # a filter that comes back would keep the small one
                problem = f'the BatchNorm behind {name} is frozen, so what fades does not come back'
            raise ConfigError(
                problem, key='decay_bn', got=True, fix='Leave it out, or exclude the convolution.'
            )

    def _check_rate(self) -> None:
        if self.how['granularity'] == 'weight':
            return
        widest = max(conv.out_channels for _, conv, _ in self.layers)
        if not pruned_count(widest, self.prune_rate):
            raise ConfigError(
                f'it is less than one filter of the widest layer, which has {widest}',
                key='prune_rate',
                got=self.prune_rate,
                expected=f'at least {1 / widest:.3g}',
            )

    def _warn_of_other_intervals(self, runner: Any) -> None:
        """Name what would see filters that have been trained since the last update."""
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        every = self.interval if by_epoch else cast(int, self.interval_iters)
        files = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        intervals = [('train_cfg.val_interval', getattr(loop, 'val_interval', every))]
        if files and by_epoch and not any(hook.by_epoch for hook in files):
            runner.logger.warning(
                'Checkpoints are written after iterations, and filters are pruned after epochs: '
                'no file, the last one included, will hold the pruned network. Set '
                'default_hooks.checkpoint.by_epoch=True'
            )
        for hook in files:
            if hook.by_epoch == by_epoch and hook.interval > 0:
                intervals.append(('default_hooks.checkpoint.interval', hook.interval))
        for key, value in intervals:
            if value % every:
                runner.logger.warning(
                    f'{key}={value} is no multiple of the {every} '
                    f'{"epochs" if by_epoch else "iterations"} between updates of the '
                    'SoftFilterPruningHook: what is seen in between has filters that have been '
                    'trained since'
                )

    def _update(self, runner: Any, t: int) -> None:
        alpha, rate = self.schedule.alpha_at(t), self.schedule.rate_at(t)
        zero = prune(self.layers, rate, alpha, **self.how, also=self.averages)
        found = dict(prune_alpha=alpha, prune_rate=rate, zero_filters=float(zero))
        runner.message_hub.update_scalars({f'train/{key}': value for key, value in found.items()})
        runner.logger.info(f'Pruned: alpha {alpha:.3g}, rate {rate:.4f}, {zero} filters are zero')
