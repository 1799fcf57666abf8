"""`Cohort`: networks that are trained together and learn from each other, without a teacher."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from kdmm.distillers.builder import task_facts
from kdmm.distillers.cohort.members import build_others, other_configs, refuse_one_start
from kdmm.distillers.cohort.terms import CohortTerm, cohort_table, cohort_term
from kdmm.distillers.cohort.trunk import Trunk
from kdmm.distillers.loss_weights import switched_on
from kdmm.distillers.objective import OwnLosses, beside_a_total, register_objective
from kdmm.distillers.probe import Size, blank_taps
from kdmm.distillers.section import tap_names
from kdmm.distillers.term import TermedObjective, gather_context
from kdmm.errors import ConfigError
from kdmm.taps import Taps, require_gradient


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
        taps: Tap name to ``module.path.in|.out``, or to a list of one such path a place.
        losses: Term name to ``dict(type=, on=, weight=, ...)``, see `cohort_term`; none at all
            trains the networks side by side.
        ensemble: Whether validation reports the ensemble, too.
        channels_last: Use this memory format for the batch and all networks.
        probe_size, crop_size: See `Distillation`.
    """

    from_config = True
    results = ('peers.',)

    def __init__(
        self,
        student: nn.Module,
        config: Mapping[str, Any],
        peers: int | Sequence[Any] = 2,
        keep: int = 0,
        trunk: Sequence[str] = (),
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
        self.keep, self.channels_last = keep, channels_last
        self.trunk = Trunk(student, trunk)
        self.shared = self.trunk.paths
        if channels_last:
            student.to(memory_format=torch.channels_last)
            self.peers.to(memory_format=torch.channels_last)
        taps, losses = taps or {}, losses or {}
        check_dicts(taps, losses)
        losses = switched_on(losses)
        with evaluating(student):  # what the peers share is in its mode
            for peer in self.peers.values():
                self.trunk.plant(peer, probe_size)
            self.taps = tapped({'': student, **self.peers}, keep, taps, losses)
            refuse_shared(self.taps[''], self.trunk.paths)
            self.terms = nn.ModuleDict(self._build_terms(student, losses, probe_size, crop_size))
        self.hooks.append(dict(type='kdmm.PeersHook', ensemble=ensemble))
        self._announced = False

    def forward(
        self, own: OwnLosses, inputs: Any, samples: Sequence[Any] | None
    ) -> dict[str, Tensor]:
        """Compute all losses of one batch, which all networks see.

        Returns:
            The student's losses under their own names (``loss`` as ``head.loss``), the others' as
            ``kd.<peer>_<name>``, the terms as ``kd.loss_<term>``.
        """
        if self.channels_last and isinstance(inputs, Tensor):
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        losses: dict[str, Tensor] = {}
        seen = []
        with self.trunk.kept():
            for taps, run in self._passes(own, samples):
                with taps.record() as found:
                    losses.update(run(inputs))
                require_gradient(found, taps.owner)
                seen.append(found)
        return {**losses, **self._between(self._by_place(seen), samples)}

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

    def _by_place(self, found: Sequence[Any]) -> list[Any]:
        """The student's, then the others' -> by place."""
        own, *others = found
        return [*others[: self.keep], own, *others[self.keep :]]

    def _passes(self, own: OwnLosses, samples: Any) -> Iterator[tuple[Taps, OwnLosses]]:
        """The student first: what it computed of the trunk, the others continue."""
        yield self.taps[''], lambda inputs: beside_a_total(own(inputs))
        for name, peer in self.peers.items():
            yield self.taps[name], self._prefixed(name, peer, samples)

    def _prefixed(self, name: str, peer: nn.Module, samples: Any) -> OwnLosses:
        def run(inputs: Any) -> dict[str, Tensor]:
            with self.trunk.unchanged(inputs):
                losses = peer(inputs, samples, mode='loss')
            return {f'kd.{name}_{key}': value for key, value in losses.items()}

        return run

    def _between(self, seen: Sequence[Any], samples: Any) -> dict[str, Tensor]:
        """The weighted terms; ``seen`` are the taps of each place."""
        terms = cast(list[CohortTerm], list(self.terms.values()))
        if not self._announced:
            print_log(cohort_table(terms, seen, self.memory_bytes()), 'current')
            self._announced = True
        busy = [term for term in terms if not term.idle]
        context = gather_context(
            sorted({need for term in busy for need in term.first.loss.needs}), samples
        )
        result: dict[str, Tensor] = {}
        for term in terms:
            if term.idle:
                result.update(term.still(seen))
            else:
                given = {need: context[need] for need in term.first.loss.needs}
                result.update(term.weigh(term.compute(seen, **given)))
        return result

    def _build_terms(
        self, student: nn.Module, losses: Mapping[str, Any], size: Size | None, crop: Size | None
    ) -> dict[str, nn.Module]:
        if not losses:
            return {}
        networks = {'': student, **self.peers}
        blanks = [
            blank_taps(networks[name], self.taps[name], size, crop, student) for name in networks
        ]
        seen, note = self._by_place([found for found, _ in blanks]), blanks[0][1]
        facts, taps = task_facts(student), list(self.taps[''].paths)
        known = dict.fromkeys(taps)
        return {
            name: cohort_term(name, config, known, facts, seen, note)
            for name, config in losses.items()
        }


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """In eval mode inside."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def check_dicts(taps: Any, losses: Any) -> None:
    """Refuse ``kd.taps`` and ``kd.losses`` that are of the wrong kind.

    Raises:
        ConfigError: Naming the key.
    """
    for key, value in dict(taps=taps, losses=losses).items():
        if not isinstance(value, Mapping):
            raise ConfigError(f'kd.{key}: expected a dict, got {value!r}')
    for name, config in losses.items():
        if not isinstance(config, Mapping) or 'type' not in config:
            raise ConfigError(f'kd.losses.{name}: expected dict(type=..., on=...), got {config!r}')


def tapped(
    networks: Mapping[str, nn.Module], keep: int, taps: Mapping[str, Any], losses: Mapping[str, Any]
) -> dict[str, Taps]:
    """The taps that some term reads, of each network; the paths of the others are only checked.

    Args:
        networks: The student, called '', which is at place ``keep``, and the others in order.
        keep: The student's place.
        taps: Tap name to a path, or to one a place.
        losses: Term name to its dict.

    Raises:
        ConfigError: For a path that no module has, or a tap that is none.
    """
    count = len(networks)
    paths = {name: _paths(name, path, count) for name, path in taps.items()}
    read = dict.fromkeys(
        tap
        for name, config in losses.items()
        for tap in tap_names(config.get('on'), taps, f'kd.losses.{name}.on')
    )
    places = sorted(range(count), key=lambda place: place != keep)  # the student's first
    result = {}
    for place, (name, network) in zip(places, networks.items(), strict=True):
        every = Taps(network, {tap: path[place] for tap, path in paths.items()}, name or 'student')
        every.paths = {tap: every.paths[tap] for tap in read}
        result[name] = every
    return result


def refuse_shared(taps: Taps, trunk: Sequence[str]) -> None:
    """Refuse to compare networks where they are one and the same.

    Raises:
        ConfigError: If a tap reads a module of the trunk.
    """
    for name, path in taps.paths.items():
        if path.module in trunk:
            raise ConfigError(
                f'kd.taps.{name}: {path.module!r} is part of kd.trunk, where all networks are the '
                'same. Tap what comes behind it'
            )


def _paths(name: str, path: Any, count: int) -> list[str]:
    paths = [path] * count if isinstance(path, str) else path
    strings = isinstance(paths, list | tuple) and all(isinstance(item, str) for item in paths)
    if not strings or len(paths) != count:
        raise ConfigError(f'kd.taps.{name}: expected a path or a list of {count}, got {path!r}')
    return list(paths)
