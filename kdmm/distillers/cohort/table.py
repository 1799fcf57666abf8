"""The table printed when a cohort starts: what is compared among whom."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdmm.distillers.cohort.terms import CohortTerm, PairTerm
from kdmm.distillers.table import columns, shape_of


def cohort_table(terms: Sequence[CohortTerm], seen: Sequence[Mapping[str, Any]]) -> str:
    """Tap, shape in each network, loss and weight of each term; memory of banks."""
    if not terms:
        return f'Cohort of {len(seen)} networks without losses between them'
    rows = [('term', 'tap', *(f'place {i}' for i in range(len(seen))), 'loss', 'weight')]
    stored = 0
    for term in terms:
        one = term.first if isinstance(term, PairTerm) else term
        losses = [pair.loss for pair in term.pairs] if isinstance(term, PairTerm) else [term.loss]
        stored += sum(getattr(loss, 'memory_bytes', int)() for loss in losses)
        shapes = [shape_of(one.pick(found)) for found in seen]
        rows.append((term.name, one.on, *shapes, type(one.loss).__name__, one.describe_weight()))
    lines = [f'Cohort of {len(seen)} networks', *columns(rows)]
    if stored:
        lines.append(f'queues and banks: {stored / 2**20:.0f} MiB on each device')
    return '\n'.join(lines)
