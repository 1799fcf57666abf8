"""Report of a conversion: what was done, and the lines that use the file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmm.pretrained import libraries
from kdmm.pretrained.architecture import Architecture
from kdmm.pretrained.checkpoint import Weights, starts
from kdmm.pretrained.libraries import ZOO
from kdmm.pretrained.mapping import untrained
from kdmm.transfer.compose import Composition
from kdmm.transfer.plan import Plan, Request
from kdmm.transfer.verification import Proof
from kdmm.utils.normalization import DIGITS, Normalization


@dataclass(frozen=True)
class Report:
    """Summary of a conversion that was written.

    Attributes:
        lines: Source, target, coverage, what was dropped, proof, inputs.
        snippet: What to paste to use the file.
        keys: Keys of the target, all of which the file has.
        filled: Batch counters that the source lacked.
        dropped: Keys of the checkpoint that are not in the file.
        proof: What was compared.
    """

    lines: Sequence[str]
    snippet: str
    keys: Sequence[str]
    filled: Sequence[str]
    dropped: Sequence[str]
    proof: Proof

    @property
    def warnings(self) -> list[str]:
        """The lines that begin with 'warning'."""
        return [line for line in self.lines if line.startswith('warning')]

    def __str__(self) -> str:
        return '\n'.join([*self.lines, '', self.snippet])


def report(
    request: Request,
    plan: Plan,
    weights: Weights,
    proof: Proof,
    composition: Composition | None,
) -> Report:
    """Describe a file that is written."""
    keys = [*plan.mapping.pairs, *plan.mapping.filled]
    filled = sorted({*plan.held.filled, *plan.mapping.filled})
    carried = set(composition.also) if composition else set()
    dropped = [key for key in weights.unused_keys if key not in carried]
    dropped += [f'{weights.prefix}{key}' for key in (*plan.held.heads, *plan.mapping.heads)]
    surplus = [f'{weights.prefix}{key}' for key in plan.mapping.surplus]
    lines = [
        f'source: {plan.source.title(plan.state)} ({plan.source.provenance}), '
        + (f'under {weights.prefix}' if weights.prefix else 'no prefix'),
        f'target: {plan.target.title(plan.state)} ({plan.target.provenance})',
        f'keys: {len(keys)} of {len(keys)} keys of {plan.target.title(plan.state)}',
        *([f'filled with 0: {len(filled)} num_batches_tracked'] if filled else []),
        *([_composed(request, composition)] if composition else []),
        f'dropped: {starts(dropped, weights.prefix) or "nothing"}'
        + (f'; {len(surplus)} of outputs that the target does not have' if surplus else ''),
        f'proof: {proof}',
        _inputs(plan),
        *(['note: BatchNorm statistics are as initialised: not trained'] if untrained(plan.state)
          else []),
        f'written: {request.out} ({Path(request.out).stat().st_size / 2**20:.1f} MiB)',
    ]  # fmt: skip
    text = snippet(plan.target, request.out, composition is not None)
    return Report(lines, text, keys, filled, [*dropped, *surplus], proof)


def _composed(request: Request, composition: Composition) -> str:
    new = len(composition.replaced) + len(composition.also)
    also = f', {len(composition.also)} of {", ".join(request.also)}' if composition.also else ''
    return (
        f'into: {len(composition.replaced)} of {len(composition.replaced)} backbone entries of '
        f'{request.into} replaced{also}; the other {len(composition.state) - new} are as they were'
    )


def _inputs(plan: Plan) -> str:
    source, target = (Normalization.of_config(side.inputs) for side in (plan.source, plan.target))
    return compare_inputs(source, target, bool(plan.target.config))


def snippet(target: Architecture, out: str, complete: bool) -> str:
    """Config, or Python of torchvision and timm, that uses the file."""
    if target.library in ZOO:
        return libraries.model_code(target.library, target.kind, out)
    if complete:
        return f'load_from = {out!r}'
    if not target.by_init_cfg:
        return (
            f'model.{target.path}load_state_dict('
            f"torch.load({out!r}, weights_only=True)['state_dict'])"
        )
    text = f"dict(init_cfg=dict({_delete(target)}type='Pretrained', checkpoint={out!r}))"
    *outer, last = target.path.rstrip('.').split('.')
    text = f'{last}={text}'
    for name in reversed(outer):
        text = f'{name}=dict({text})'
    other = 'pretrained=None, ' if target.config.get('pretrained') else ''
    return f'model = dict({other}{text})'


def _delete(target: Architecture) -> str:
    """Entry that keeps a target config's own ``init_cfg`` from being merged with the new one."""
    node: Any = target.config
    for name in target.path.rstrip('.').split('.'):
        node = node.get(name, {}) if isinstance(node, Mapping) else {}
    if 'init_cfg' not in node:
        return ''
    given = node['init_cfg']  # a dict is not merged with None either
    own = isinstance(given, Mapping) and set(given) == {'type', 'checkpoint'}
    return '' if own else '_delete_=True, '


def compare_inputs(source: Normalization | None, target: Normalization | None, config: bool) -> str:
    """Describe the images of both in one line; it starts with 'warning' if they differ.

    Args:
        source: What the weights were trained on.
        target: What the target's config prepares.
        config: Whether there is such a config.
    """
    if source is None:
        return 'input: the source does not say how its images were normalised; use the same'
    if not config:
        return f'input: trained on {source}; prepare the images of the target alike'
    if target is None:
        return f'warning: trained on {source}; the target config normalises in no known way'
    if source.same_as(target, DIGITS):
        return f'input: {source}, in source and target'
    return (
        f'warning: trained on {source}, but the target config prepares {target}; set its '
        'data_preprocessor, or the features are not those that were learned'
    )
