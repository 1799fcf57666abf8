"""What a written file says of itself."""

from pathlib import Path
from typing import Any

from kdmm.downloads import local_file, sha256
from kdmm.transfer.checkpoint import Weights
from kdmm.transfer.declared import ENTRY, said
from kdmm.transfer.inputs import Normalisation
from kdmm.transfer.plan import Plan
from kdmm.transfer.recognise import recognise
from kdmm.transfer.request import Request


def origin_of(request: Request, plan: Plan, weights: Weights) -> dict[str, Any]:
    """The ``meta`` of a file: where its weights are from, what they compute, and from what.

    ``traits`` change features and not shapes; ``inputs`` is a data preprocessor or None. A file
    that was converted before keeps the ``source`` that it had.
    """
    found = recognise(plan.state)
    images = Normalisation.of(plan.source.inputs)
    source = said(weights.meta).get('source') or dict(
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
