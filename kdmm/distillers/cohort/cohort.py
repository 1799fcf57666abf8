"""`Cohort`, which trains several networks that learn from each other without a teacher."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, cast

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from kdmm.distillers.builder import task_facts
from kdmm.distillers.cohort.members import build_others, other_configs, refuse_one_start
from kdmm.distillers.cohort.terms import CohortTerm, cohort_table, cohort_term
from kdmm.distillers.cohort.trunk import Trunk
from kdmm.distillers.loss_weights import LossWeights, switched_on
from kdmm.distillers.objective import OwnLosses, register_objective, rename_total
from kdmm.distillers.probe import Size, blank_taps
from kdmm.distillers.refusals import refuse_mixing
from kdmm.distillers.section import tap_names
from kdmm.distillers.stage_branches import (
    BUILT_IN,
    PREFIX,
    StageBranches,
    branch_losses,
    gather_stages,
    own_stage_taps,
)
from kdmm.distillers.term import SINGLE, TermedObjective, gather_contexts, labels
from kdmm.errors import ConfigError, refuse_unknown
from kdmm.losses.base import WHOLE
from kdmm.schedules import Progress
from kdmm.taps import Taps, require_gradient

#: How messages and branches call the student.
STUDENT = 'student'


@register_objective('Cohort')
class Cohort(TermedObjective):
    """N networks on one batch: the task's losses of each, and losses between them.

    Without a teacher (DML, arXiv 1706.00384; MCL, arXiv 2104.12565).

    Each network runs once a step. The student is one of them, the one that the run keeps as its
    model; the others lie beside it as children, are trained, evaluated and written like it.

    Args:
        student: The network at place ``keep``.
        config: Its model config, of which the others are made unless they are given.
        peers: See `other_configs`.
        keep: The student's place; it matters where a loss treats places differently.
        trunk: Modules of the student that all networks share, see `Trunk`.
        trunk_gradient: The trunk's parameters get the ``'sum'`` of the networks' gradients, or
            their ``'mean'``, so that a trunk of many learns at the rate of a single network's (the
            rescaling of CL-ILR, arXiv 1805.11761).
        branches: ``dict(stages=, checkpointing=, blocks=, weight=, evaluate=)`` for a classifier
            behind each stage of each network, see `StageBranches`; True for the defaults,
            ``stages='inner'`` for all stages but the last, ``blocks`` of all networks or a dict of
            the networks' own. Each learns the labels with ``weight``, a number or a schedule, and
            is no part of the written networks; ``evaluate=False`` leaves them out of validation
            (`kdmm.StagesHook`). Mutual losses may read two more taps, ``stages`` and
            ``stage_logits``: what enters and leaves the classifiers of all branches, and of the
            network itself behind them.
        taps: Tap name to ``module.path.in|.out``, or to a list of one such path a place. Paths in
            the branches begin with ``branches.``: ``branches.stage1.fc.in`` (pooled features).
        losses: Term name to ``dict(type=, on=, weight=, ...)``, see `cohort_term`; none at all
            trains the networks side by side.
        ensemble: Whether validation reports the ensemble, too.
        channels_last: Use this memory format for the batch and all networks.
        probe_size, crop_size: See `Distillation`.
    """

    from_config = True
    results = ('peers.',)
    #: Whether a loss may have a matching that a meta-optimisation trains.
    trains_matching: ClassVar[bool] = False

    def __init__(
        self,
        student: nn.Module,
        config: Mapping[str, Any],
        peers: int | Sequence[Any] = 2,
        keep: int = 0,
        trunk: Sequence[str] = (),
        trunk_gradient: str = 'sum',
        branches: bool | Mapping[str, Any] = False,
        taps: Mapping[str, Any] | None = None,
        losses: Mapping[str, Mapping[str, Any]] | None = None,
        ensemble: bool = True,
        channels_last: bool = False,
        probe_size: tuple[int, int] | None = None,
        crop_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        # the first child: averages of weights (EMA) pair parameters by their order
        self.peers = nn.ModuleDict(build_others(other_configs(peers, config), keep, student))
        self.branches = nn.ModuleDict()  # of each network, the student's under `STUDENT`
        self.evaluates_branches = False
        self.keep, self.channels_last = keep, channels_last
        self.trunk = Trunk(student, trunk)
        self.shared = self.trunk.paths
        if checked_mean(trunk_gradient, trunk):
            self.trunk.scale_gradients(1 / (1 + len(self.peers)))
        if channels_last:
            student.to(memory_format=torch.channels_last)
            self.peers.to(memory_format=torch.channels_last)
        taps, losses = taps or {}, losses or {}
        check_dicts(taps, losses)
        losses = switched_on(losses)
        networks = {'': student, **self.peers}
        refuse_built_in(taps, losses, branches)
        read = _taps_read(losses, {**taps, **BUILT_IN})
        self.built_in = [tap for tap in read if tap in BUILT_IN]
        paths = paths_by_network(list(networks), keep, taps)
        behind = {name: taps_behind(found, read) for name, found in paths.items()}
        self._add_branches(networks, branches, behind)  # of peers as they are without a trunk
        with evaluating(student):  # shared modules have its mode
            for peer in self.peers.values():
                self.trunk.share_with(peer, probe_size)
            self.taps = taps_of(networks, paths, read, self.built_in)
            refuse_shared(self.taps[''], self.trunk.paths)
            self.terms = nn.ModuleDict(self._build_terms(student, losses, probe_size, crop_size))
        self._refuse_matching()
        self.check_labels(student)
        if len(self.branches):
            refuse_mixing(student, f'kd.branches {SINGLE["labels"]}')
        self.hooks.append(dict(type='kdmm.PeersHook', ensemble=ensemble))
        if self.evaluates_branches:
            self.hooks.append(dict(type='kdmm.StagesHook'))  # behind it, see there
        self._announced = False

    def forward(
        self, own: OwnLosses, inputs: Any, samples: Sequence[Any] | None
    ) -> dict[str, Tensor]:
        """Compute all losses of one batch, which all networks see.

        Returns:
            The student's losses under their own names (``loss`` as ``head.loss``), the others' as
            ``kd.<peer>_<name>``, those of branches as ``kd.loss_branches_<stage>`` and
            ``kd.<peer>_loss_branches_<stage>``, the terms as ``kd.loss_<term>``.
        """
        losses, activations = self.run_networks(own, inputs, samples)
        return {**losses, **self._mutual_losses(activations, samples)}

    def run_networks(
        self, own: OwnLosses, inputs: Any, samples: Sequence[Any] | None
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """Run all networks and branches on a batch.

        Returns:
            Their losses with the labels, and the taps of each place.
        """
        if self.channels_last and isinstance(inputs, Tensor):
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        losses: dict[str, Tensor] = {}
        activations = []
        with self.trunk.kept():
            for name, run in self._passes(own, samples):
                branches = self._branches_of(name)
                stages: Any = branches.stages.record() if branches else nullcontext({})
                with self.taps[name].record() as found, stages as outputs:
                    losses.update(run(inputs))
                if branches:
                    own_losses, behind = self._behind(name, branches, outputs, samples)
                    losses.update(own_losses)
                    found.update(behind)
                gather_stages(found, self.built_in)
                require_gradient(found, self.taps[name].owner)
                activations.append(found)
        return losses, self.by_place(activations)

    def check_start(self, loaded: bool, resumed: bool = False) -> None:
        """Refuse weights for the student alone."""
        refuse_one_start(loaded, resumed)

    def networks(self) -> dict[str, Any]:
        """The networks beside the student, ``peer<place>``."""
        return dict(self.peers.items())

    def averaged(self) -> nn.Module:
        """The networks beside the student, without losses and taps."""
        part = nn.Module()
        part.add_module('peers', self.peers)
        return part

    def by_place(self, found: Sequence[Any]) -> list[Any]:
        """Reorder values of the student and the others, in this order, by place."""
        own, *others = found
        return [*others[: self.keep], own, *others[self.keep :]]

    def _passes(self, own: OwnLosses, samples: Any) -> Iterator[tuple[str, OwnLosses]]:
        """Yield the student first, so that the others continue from its trunk."""
        yield '', lambda inputs: rename_total(own(inputs))
        for name, peer in self.peers.items():
            yield name, self._prefixed(name, peer, samples)

    def _add_branches(
        self, networks: Mapping[str, nn.Module], options: Any, taps: Mapping[str, Mapping[str, str]]
    ) -> None:
        """Build the branches of all networks, if the section asks for them."""
        if options is False:
            if any(taps.values()):
                raise ConfigError(
                    f'a path begins with {PREFIX}, and there are no branches',
                    key='kd.taps',
                    fix='Set kd.branches=True.',
                )
            return
        given = {} if options is True else options
        if not isinstance(given, Mapping):
            raise ConfigError(key='kd.branches', got=options, expected='True, False or a dict')
        refuse_unknown(
            'kd.branches', given, ('stages', 'checkpointing', 'blocks', 'weight', 'evaluate')
        )
        self.branch_weight = LossWeights(given.get('weight', 1.0), 'kd.branches.weight')
        if len(self.branch_weight.autos) or self.branch_weight.given != (WHOLE,):
            raise ConfigError(
                key='kd.branches.weight', got=given['weight'], expected='one number or schedule'
            )
        evaluate = given.get('evaluate', True)
        if not isinstance(evaluate, bool):
            raise ConfigError(key='kd.branches.evaluate', got=evaluate, expected='True or False')
        self.evaluates_branches = evaluate
        options = {k: value for k, value in given.items() if k not in ('weight', 'evaluate')}
        blocks = options.pop('blocks', None)
        if isinstance(blocks, Mapping):
            refuse_unknown('kd.branches.blocks', blocks, [name or STUDENT for name in networks])
        for name, network in networks.items():
            owner = name or STUDENT
            kept = blocks.get(owner) if isinstance(blocks, Mapping) else blocks
            self.branches[owner] = StageBranches(
                network, taps[name], owner, self.built_in, blocks=kept, **options
            )
        if self.channels_last:
            self.branches.to(memory_format=torch.channels_last)

    def _branches_of(self, name: str) -> StageBranches | None:
        """Return the branches of a network, by the name that `_passes` gives it."""
        return cast(StageBranches, self.branches[name or STUDENT]) if len(self.branches) else None

    def _behind(
        self, name: str, branches: StageBranches, stages: Mapping[str, Any], samples: Any
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Run the branches: their weighted losses by log name, and the taps in them."""
        logits, found = branches(stages)
        losses = branch_losses(logits, labels(samples or ()))
        start = f'kd.{name}_loss_branches_' if name else 'kd.loss_branches_'
        weight = self.branch_weight.now(WHOLE)
        return {f'{start}{stage}': weight * value for stage, value in losses.items()}, found

    def set_progress(self, progress: Progress) -> None:
        """Move all schedules."""
        super().set_progress(progress)
        if len(self.branches):
            self.branch_weight.set_progress(progress)

    def _prefixed(self, name: str, peer: nn.Module, samples: Any) -> OwnLosses:
        def run(inputs: Any) -> dict[str, Tensor]:
            with self.trunk.unchanged(inputs):
                losses = peer(inputs, samples, mode='loss')
            return {f'kd.{name}_{key}': value for key, value in losses.items()}

        return run

    def _mutual_losses(self, activations: Sequence[Any], samples: Any) -> dict[str, Tensor]:
        """Compute the weighted terms; ``activations`` are the taps of each place."""
        terms = cast(list[CohortTerm], list(self.terms.values()))
        if not self._announced:
            print_log(cohort_table(terms, activations, self.memory_bytes()), 'current')
            self._announced = True
        busy = {term.name: term.first.loss for term in terms if not term.idle}
        contexts = gather_contexts(busy, samples)
        result: dict[str, Tensor] = {}
        for term in terms:
            if term.name in busy:
                values = term.compute(activations, **contexts[term.name])
                result.update(term.weigh(values))
            else:
                result.update(term.zeros(activations))
        return result

    def _refuse_matching(self) -> None:
        for term in () if self.trains_matching else cast(list[CohortTerm], self.terms.values()):
            if term.first.loss.needs_meta:
                raise ConfigError(
                    f'the matching of {type(term.first.loss).__name__} is learnt by a '
                    "meta-optimisation, which kd.type='LMCL' runs",
                    key=f'kd.losses.{term.name}.matching',
                    fix="Set kd.type='LMCL', or a fixed matching: 'uniform' or 'one_to_one'.",
                )

    def _build_terms(
        self, student: nn.Module, losses: Mapping[str, Any], size: Size | None, crop: Size | None
    ) -> dict[str, nn.Module]:
        if not losses:
            return {}
        networks = {'': student, **self.peers}
        blanks = [
            blank_taps(networks[name], self.taps[name], size, crop, student) for name in networks
        ]
        found = [dict(blank) for blank, _ in blanks]
        for (name, network), blank in zip(networks.items(), found, strict=True):
            branches = self._branches_of(name)
            if branches:
                blank.update(branches.blank(network, size, crop, student))
            gather_stages(blank, self.built_in)
        activations, note = self.by_place(found), blanks[0][1]
        facts, known = task_facts(student), dict.fromkeys(found[0])
        return {
            name: cohort_term(name, config, known, facts, activations, note)
            for name, config in losses.items()
        }


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Set a network to eval mode for the block."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def checked_mean(trunk_gradient: Any, trunk: Sequence[str]) -> bool:
    """Return whether ``kd.trunk_gradient`` is the mean.

    Raises:
        ConfigError: If it is neither sum nor mean, or the mean without a trunk.
    """
    if trunk_gradient not in ('sum', 'mean') or (trunk_gradient == 'mean' and not trunk):
        raise ConfigError(
            key='kd.trunk_gradient',
            got=trunk_gradient,
            expected="'sum', or 'mean' where kd.trunk lists what the networks share",
        )
    return trunk_gradient == 'mean'


def check_dicts(taps: Any, losses: Any) -> None:
    """Refuse ``kd.taps`` and ``kd.losses`` that are of the wrong kind.

    Raises:
        ConfigError: Naming the key.
    """
    for key, value in dict(taps=taps, losses=losses).items():
        if not isinstance(value, Mapping):
            raise ConfigError(key=f'kd.{key}', got=value, expected='a dict')
    for name, config in losses.items():
        if not isinstance(config, Mapping) or 'type' not in config:
            raise ConfigError(
                key=f'kd.losses.{name}', got=config, expected='dict(type=..., on=...)'
            )


def paths_by_network(
    names: Sequence[str], keep: int, taps: Mapping[str, Any]
) -> dict[str, dict[str, str]]:
    """Give each network its own path of each tap.

    Args:
        names: The student's, which is at place ``keep``, and the others' in order.
        keep: The student's place.
        taps: Tap name to a path, or to one a place.

    Raises:
        ConfigError: For a path of the wrong kind.
    """
    paths = {tap: _paths(tap, path, len(names)) for tap, path in taps.items()}
    places = sorted(range(len(names)), key=lambda place: place != keep)  # the student's first
    return {
        name: {tap: path[place] for tap, path in paths.items()}
        for name, place in zip(names, places, strict=True)
    }


def taps_of(
    networks: Mapping[str, nn.Module],
    paths: Mapping[str, Mapping[str, str]],
    read: Sequence[str],
    built_in: Sequence[str] = (),
) -> dict[str, Taps]:
    """Build the taps in each network; paths that no term reads are only checked.

    Args:
        networks: The student, called '', and the others.
        paths: By network, tap name to path. Those into branches are left out.
        read: Taps that some term reads.
        built_in: Those of them that every network with branches has.

    Raises:
        ConfigError: For a path that no module has.
    """
    result = {}
    for name, network in networks.items():
        inside = {tap: path for tap, path in paths[name].items() if not path.startswith(PREFIX)}
        own = own_stage_taps(network, name or STUDENT, built_in)
        result[name] = Taps(network, {**inside, **own}, name or STUDENT)
        every = result[name].paths
        result[name].paths = {tap: every[tap] for tap in (*read, *own) if tap in every}
    return result


def refuse_built_in(taps: Mapping[str, Any], losses: Mapping[str, Any], branches: Any) -> None:
    """Refuse to define the taps of networks with branches, and to read them without branches.

    Raises:
        ConfigError: Names the tap.
    """
    for tap in BUILT_IN:
        if tap in taps:
            raise ConfigError(
                'networks with branches have a tap of this name',
                key=f'kd.taps.{tap}',
                got=taps[tap],
                fix='Give it another name.',
            )
        for name, config in losses.items():
            on = config.get('on')
            if branches is False and tap in ([on] if isinstance(on, str) else on or ()):
                raise ConfigError(
                    'only networks with branches have this tap',
                    key=f'kd.losses.{name}.on',
                    got=tap,
                    fix="Set kd.branches=dict(stages='inner').",
                )


def taps_behind(paths: Mapping[str, str], read: Sequence[str]) -> dict[str, str]:
    """Return the taps in branches that some term reads, with paths inside them."""
    return {
        tap: path.removeprefix(PREFIX)
        for tap, path in paths.items()
        if path.startswith(PREFIX) and tap in read
    }


def refuse_shared(taps: Taps, trunk: Sequence[str]) -> None:
    """Refuse to compare networks where they are one and the same.

    Raises:
        ConfigError: If a tap reads a module of the trunk.
    """
    for name, path in taps.paths.items():
        if path.module in trunk:
            raise ConfigError(
                'it is part of kd.trunk, where all networks are the same',
                key=f'kd.taps.{name}',
                got=path.module,
                fix="Tap what comes behind it; its input ('.in') is the output of the trunk.",
            )


def _paths(name: str, path: Any, count: int) -> list[str]:
    paths = [path] * count if isinstance(path, str) else path
    strings = isinstance(paths, list | tuple) and all(isinstance(item, str) for item in paths)
    if not strings or len(paths) != count:
        raise ConfigError(key=f'kd.taps.{name}', got=path, expected=f'a path or a list of {count}')
    return list(paths)


def _taps_read(losses: Mapping[str, Any], taps: Mapping[str, Any]) -> list[str]:
    """Return the taps that some term reads, each once, in order."""
    found = (
        tap
        for name, config in losses.items()
        for tap in tap_names(config.get('on'), taps, f'kd.losses.{name}.on')
    )
    return list(dict.fromkeys(found))
