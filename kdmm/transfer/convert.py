"""Convert a checkpoint to a backbone file, or to a complete checkpoint with its backbone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from kdmm.checkpoints import read_checkpoint, unequal
from kdmm.downloads import local_file, sha256
from kdmm.errors import ProofError, about
from kdmm.pretrained.checkpoint import (
    ENTRY,
    Weights,
    read_weights,
    tensors_of,
    transfer_entry,
    under_prefix,
)
from kdmm.pretrained.families import recognise
from kdmm.pretrained.libraries import ZOO, require
from kdmm.transfer.compose import Composition, compose
from kdmm.transfer.plan import Plan, Request, plan_of
from kdmm.transfer.report import Report, report
from kdmm.transfer.verification import Proof, Side, prove
from kdmm.transfer.writing import Draft, tidy
from kdmm.utils.normalization import Normalization


def convert(request: Request) -> Report:
    """Convert a checkpoint, verify the file that is written, and report.

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


def provenance_of(request: Request, plan: Plan, weights: Weights) -> dict[str, Any]:
    """Provenance, the ``meta`` of a file: where its weights are from and what they compute.

    ``traits`` change features and not shapes; ``inputs`` is a data preprocessor or None. A file
    that was converted before keeps the ``source`` that it had.
    """
    found = recognise(plan.state)
    images = Normalization.of_config(plan.source.inputs)
    source = transfer_entry(weights.meta).get('source') or dict(
        file=Path(request.checkpoint).name,
        sha256=sha256(local_file(request.checkpoint)),
        prefix=weights.prefix,
        branch=weights.branch,
    )
    entry = dict(
        source=source,
        network=found.title if found else None,
        traits=plan.family.traits(plan.net),
        accepted=plan.differing,
        inputs=images.as_config() if images else None,
    )
    return {ENTRY: entry}


def _content(
    request: Request,
    plan: Plan,
    weights: Weights,
    backbone: Mapping[str, Tensor],
    composition: Composition | None,
) -> Mapping[str, Any]:
    """Content of the file: weights, with their provenance where the library reads more."""
    if composition:
        return dict(state_dict=composition.state)
    if plan.target.library in ZOO:
        return backbone
    return dict(state_dict=backbone, meta=provenance_of(request, plan, weights))


def _composed(
    request: Request, plan: Plan, backbone: Mapping[str, Tensor], weights: Weights
) -> Composition | None:
    if request.into is None:
        return None
    content = read_checkpoint(request.into, unsafe=request.unsafe, what='--into', allow='--unsafe')
    with about('--into', request.into):
        full = tensors_of(content, '')
    return compose(full, backbone, plan.target.path, weights.everything, request.also)


def _prove(request: Request, plan: Plan, draft: Draft, composition: Composition | None) -> Proof:
    """Read the file from disk, let the target's library load it, compare the features."""
    written = draft.read()
    if composition:
        composition.check(written['state_dict'])
    prefix = plan.target.path if composition else ''
    net = plan.target.load(draft.path, prefix)
    loaded = net.state_dict()
    own = under_prefix(written, prefix)
    cast = {
        key: value.to(loaded[key].dtype) if key in loaded else value for key, value in own.items()
    }
    for key in unequal(cast, loaded):
        raise ProofError(f'{plan.target.library} did not load {key} from the file')
    return prove(
        Side(plan.source, plan.net, plan.state),
        Side(plan.target, net, loaded),
        plan.family,
        plan.mapping,
        request.size,
        accepted=bool(plan.differing),
    )
