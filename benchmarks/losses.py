"""Losses: the textbook form beside kdmm's."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from kdmm.utils.tables import for_stream

from .cases import CASES, Case
from .figures import NOTE, TOLERANCE, Figures, difference, marked, number, ratio, span
from .inputs import Shape
from .run import alternate

FLOOR = 'products'
HEAD = ['form', 'median ms', 'quartiles', 'min ms', 'added MiB', 'peak MiB']
HEAD += ['time x', 'added x', 'peak x', '/ products', 'differs by']


def measure(names: Sequence[str], args: Namespace) -> Iterator[dict[str, Any]]:
    """One entry a case and shape, as it is written to JSON."""
    for name in names:
        case = CASES[name]
        for shape in (case.quick,) if args.quick else case.shapes:
            yield entry(name, case, shape, args)


def entry(name: str, case: Case, shape: Shape, args: Namespace) -> dict[str, Any]:
    """All forms of one case at one shape, and what follows from them."""
    common = dict(
        case=name,
        shape=shape,
        warm=case.quick,
        device=args.device,
        dtype=args.dtype,
        tf32=args.tf32,
        threads=args.threads,
        seconds=0.0 if args.quick else args.seconds,
    )
    found = alternate({form: dict(common, form=form) for form in case.forms()}, args.rounds)
    flop = case.floor[1](shape) if case.floor else None
    return dict(
        case=name,
        shape=shape,
        flop=flop,
        forms=found,
        compared={
            form: compare(found, form, 'float16' if args.tf32 else args.dtype) for form in case.ours
        },
    )


def compare(found: dict[str, Figures], form: str, dtype: str) -> dict[str, Any]:
    """Ratios of one of kdmm's forms: naive / ours, ours / products; do the results agree?"""
    naive, ours = found['naive'], found[form]
    gap = difference(naive, ours)
    return dict(
        time=ratio(naive, ours, 'median_s'),
        added=ratio(naive, ours, 'added_mib', least=1.0),
        peak=ratio(naive, ours, 'peak_mib'),
        over_products=ratio(ours, found.get(FLOOR), 'median_s'),
        difference=gap,
        agrees=None if gap is None else gap <= TOLERANCE[dtype],
    )


def render(result: dict[str, Any]) -> str:
    """One entry as a table of its forms."""
    rows, notes = [], []
    for form, figures in result['forms'].items():
        if 'failed' in figures:
            notes.append(f'{form} failed: {figures["failed"]}')
            rows.append([form, 'failed', *['-'] * (len(HEAD) - 2)])
            continue
        ratios = result['compared'].get(form, {})
        gap = ratios.get('difference')
        rows.append(
            [
                marked(form, figures),
                number(figures['median_s'] * 1e3),
                span(figures['quartiles_s'], 1e3),
                number(figures['min_s'] * 1e3),
                number(figures['added_mib'], 1),
                number(figures['peak_mib'], 0),
                *(number(ratios.get(key)) for key in ('time', 'added', 'peak', 'over_products')),
                '-' if gap is None else f'{gap:.0e}' + ('' if ratios['agrees'] else ' DIFFERS'),
            ]
        )
    if any(figures.get('disturbed') for figures in result['forms'].values()):
        notes.append(NOTE)
    shape = ' '.join(f'{name}={value}' for name, value in result['shape'].items())
    title = f'{result["case"]}: {CASES[result["case"]].what}; {shape}'
    return '\n'.join([title, for_stream(HEAD, rows, numbers=True), *notes, ''])


def sound(result: dict[str, Any]) -> bool:
    """Return True if kdmm's forms ran and agree with the textbook's, where that ran."""
    ours = result['compared']
    failed = any('failed' in result['forms'][form] for form in ours)
    return not failed and all(item['agrees'] is not False for item in ours.values())
