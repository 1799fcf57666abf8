"""Validation of the classifiers behind the stages of a cohort's networks."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from mmengine.hooks import EMAHook, Hook
from torch import Tensor

from kdmm.distillers.cohort.cohort import STUDENT, Cohort
from kdmm.distillers.stage_branches import BUILT_IN, StageBranches, gather_stages, own_stage_taps
from kdmm.errors import ConfigError
from kdmm.hooks.deploy import plain_networks
from kdmm.hooks.ownership import objective_of
from kdmm.losses.stage_ensemble import StageEnsembleLoss
from kdmm.registry import HOOKS
from kdmm.taps import Taps

AGGREGATED = 'aggregated'


@HOOKS.register_module()
class StagesHook(Hook):
    """Adds ``stage1/<metric>``, ``peer1/stage1/<metric>`` ... to the metrics of each validation.

    They are of the branches of a cohort (``kd.branches``). Where a term is a `StageEnsembleLoss`,
    ``aggregated/<metric>`` and ``peer1/aggregated/<metric>`` are of its mix of a network's stages.
    The metrics of the networks themselves have their usual names. Networks run once; branches cost
    what they cost in a forward pass of training.
    """

    #: The hooks after it log and judge all metrics. It comes behind `PeersHook`, which runs the
    #: peers, as hooks of one priority keep the order in which they are registered.
    priority = 'HIGHEST'

    def __init__(self) -> None:
        self.evaluators: dict[str, Any] = {}

    def before_train(self, runner: Any) -> None:
        """Refuse what the metrics of branches cannot serve for.

        Raises:
            ConfigError: If ``save_best`` names one, or an `EMAHook` averages the networks alone.
        """
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                raise ConfigError(
                    'validation is of averaged networks, and their branches are not averaged',
                    key='kd.branches.evaluate',
                    got=True,
                    fix='Set it to False, or leave out the EMAHook.',
                )
            best = getattr(hook, 'save_best', None) or ()
            for key in [best] if isinstance(best, str) else best:
                if any(part == AGGREGATED or _is_stage(part) for part in str(key).split('/')):
                    raise ConfigError(
                        "checkpoints hold the networks, and a branch's metric says little of them",
                        key='default_hooks.checkpoint.save_best',
                        got=key,
                        fix='Choose by the metric of the network itself.',
                    )

    def before_val_epoch(self, runner: Any) -> None:
        """Copy the evaluator for each branch."""
        objective = self._objective(runner)
        self._mix = next(
            (
                term.first.loss
                for term in cast(Any, objective.terms.values())
                if isinstance(term.first.loss, StageEnsembleLoss)
            ),
            None,
        )
        self._networks = dict(plain_networks(runner.model))
        read = tuple(BUILT_IN) if self._mix else ()
        self._own = {
            name: Taps(network, own_stage_taps(network, name or STUDENT, read), name or STUDENT)
            for name, network in self._networks.items()
        }
        self.evaluators = {}
        for name in self._networks:
            stages = [*_branches(objective, name).branches, *[AGGREGATED] * bool(self._mix)]
            for stage in stages:
                self.evaluators[_label(name, stage)] = copy.deepcopy(runner.val_loop.evaluator)

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Record what the stages give while all networks predict."""
        objective, self._recording = self._objective(runner), ExitStack()
        self._stages, self._found = {}, {}
        for name in self._networks:
            record = _branches(objective, name).stages.record()
            self._stages[name] = self._recording.enter_context(record)
            self._found[name] = self._recording.enter_context(self._own[name].record())

    @torch.no_grad()
    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Let the branches predict the same batch."""
        self._recording.close()
        objective, device = self._objective(runner), next(runner.model.parameters()).device.type
        every: dict[str, Any] = {}
        with torch.autocast(device, enabled=runner.val_loop.fp16):
            for name in self._networks:
                logits, found = _branches(objective, name)(self._stages[name])
                for stage, values in logits.items():
                    self._judge(_label(name, stage), values, outputs, data_batch)
                every[name] = {**self._found[name], **found}
            if self._mix is not None:
                self._judge_mixes(objective, self._mix, every, outputs, data_batch)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Add the metrics of the branches."""
        if metrics is None:
            return
        size = len(runner.val_dataloader.dataset)
        for name, evaluator in self.evaluators.items():
            found = evaluator.evaluate(size)
            metrics.update({f'{name}/{key}': value for key, value in found.items()})

    def _judge_mixes(
        self,
        objective: Cohort,
        loss: StageEnsembleLoss,
        every: Mapping[str, dict[str, Any]],
        outputs: Sequence[Any],
        batch: Any,
    ) -> None:
        for found in every.values():
            gather_stages(found, BUILT_IN)
        peers = [tuple(found[tap] for tap in BUILT_IN) for found in every.values()]
        names = objective.by_place(list(every))
        mixes = loss.aggregate(objective.by_place(peers))
        for name, logits in zip(names, mixes, strict=True):
            self._judge(_label(name, AGGREGATED), logits, outputs, batch)

    def _judge(self, name: str, logits: Tensor, outputs: Sequence[Any], batch: Any) -> None:
        """Hand predictions to an evaluator: logits (B, K) and the B samples of the network."""
        made = []
        for sample, scores in zip(outputs, logits.float().softmax(1), strict=True):
            label = scores.argmax(0, keepdim=True)
            made.append(copy.copy(sample).set_pred_score(scores).set_pred_label(label))
        self.evaluators[name].process(data_samples=made, data_batch=batch)

    @staticmethod
    def _objective(runner: Any) -> Cohort:
        return cast(Cohort, objective_of(runner.model))


def _branches(objective: Cohort, network: str) -> StageBranches:
    return cast(StageBranches, objective.branches[network or STUDENT])


def _label(network: str, stage: str) -> str:
    return f'{network}/{stage}' if network else stage


def _is_stage(name: str) -> bool:
    return name.startswith('stage') and name.removeprefix('stage').isdecimal()
