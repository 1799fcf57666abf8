"""From a checkpoint to a backbone file, or to a complete checkpoint with its backbone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdmm.distillers.weights import read_checkpoint
from kdmm.transfer.architecture import below
from kdmm.transfer.checkpoint import Weights, read_weights, tensors_of
from kdmm.transfer.compose import Composition, compose
from kdmm.transfer.origin import origin_of
from kdmm.transfer.plan import Plan, plan_of
from kdmm.transfer.proof import Proof, ProofError, Side, prove
from kdmm.transfer.registered import ZOO, require
from kdmm.transfer.report import Report, report
from kdmm.transfer.request import Request
from kdmm.transfer.writing import Draft, tidy


def convert(request: Request) -> Report:
    """Write what is asked for, prove it, and say what was done.

    Raises:
        ConfigError: For whatever the request or the files have wrong; nothing is written.
        ProofError: If the target does not compute what the source does; nothing is written.
    """
    request.check()
    require(request.to, '--to')
    weights = read_weights(
        request.checkpoint,
        request.prefix,
        request.container,
        request.unsafe,
        request.branch,
        request.drop,
    )
    plan = plan_of(request, weights)
    backbone = tidy(plan.mapping.complete(plan.state))
    composition = _composed(request, plan, backbone, weights)
    with Draft(request.out) as draft:
        draft.save(_content(request, plan, weights, backbone, composition))
        proof = _prove(request, plan, draft, composition)
        draft.commit()
    return report(request, plan, weights, proof, composition)


def _content(
    request: Request,
    plan: Plan,
    weights: Weights,
    backbone: Mapping[str, Tensor],
    composition: Composition | None,
) -> Mapping[str, Any]:
    """Of the file: what says of itself where it is from, except where only weights are read."""
    if composition:
        return dict(state_dict=composition.state)
    if plan.target.library in ZOO:
        return backbone
    return dict(state_dict=backbone, meta=origin_of(request, plan, weights))


def _composed(
    request: Request, plan: Plan, backbone: Mapping[str, Tensor], weights: Weights
) -> Composition | None:
    if request.into is None:
        return None
    content = read_checkpoint(request.into, unsafe=request.unsafe, what='--into', allow='--unsafe')
    full = tensors_of(content, f'--into: {request.into!r}')
    return compose(full, backbone, plan.target.path, weights.everything, request.also)


def _prove(request: Request, plan: Plan, draft: Draft, composition: Composition | None) -> Proof:
    """Read the file from disk, let the target's library load it, compare the features."""
    written = draft.read()
    if composition:
        composition.check(written['state_dict'])
    prefix = plan.target.path if composition else ''
    net = plan.target.load(draft.path, prefix)
    loaded = net.state_dict()
    for key, value in below(written, prefix).items():
        if key not in loaded or not torch.equal(value.to(loaded[key].dtype), loaded[key]):
            raise ProofError(f'{plan.target.library} did not load {key} from the file')
    return prove(
        Side(plan.source, plan.net, plan.state),
        Side(plan.target, net, loaded),
        plan.family,
        plan.mapping,
        request.size,
        accepted=bool(plan.differing),
    )
