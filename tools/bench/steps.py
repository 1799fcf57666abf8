"""Whole training steps: the student alone, with its teacher, with each loss and with all."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from .errors import stop
from .run import alternate, ratio
from .steps_child import ALL, STUDENT, TEACHER
from .table import number, table

HEAD = ['step', 'median ms', 'min ms', 'added MiB', 'peak MiB', 'to student + teacher']
#: What the last column divides by where an objective has no terms of its own, such as HSSAKD's.
TO_STUDENT = 'to student'


def options_of(given: Sequence[str]) -> dict[str, Any]:
    """``key=value`` as the other tools read it."""
    from mmengine.config import DictAction

    parser = ArgumentParser()
    parser.add_argument('--given', nargs='+', action=DictAction, default={})
    return dict(parser.parse_args(['--given', *given] if given else []).given)


def rows_of(config: str, options: dict[str, Any]) -> list[str]:
    """The steps to measure: by term if the objective consists of terms that have a weight."""
    from kdmm.config import kind_of
    from kdmm.distillers import ConfigError
    from kdmm.distillers.loss_weights import is_switched_off
    from kdmm.engine import load_config

    try:
        section = load_config(config, options).get('kd') or {}
        kind = kind_of(section)
    except ConfigError as error:
        stop(str(error))
    if kind != 'Distiller' or not section:
        return [STUDENT, ALL] if section else [STUDENT]
    terms = [
        name
        for name, term in section['losses'].items()
        if not is_switched_off(term.get('weight', 1.0))
    ]
    return [STUDENT, TEACHER, *terms, *[ALL] * (len(terms) > 1)] if terms else [STUDENT]


def measure(names: Sequence[str], args: Namespace) -> Iterator[dict[str, Any]]:
    """One entry a config, as it is written to JSON."""
    options = options_of(args.cfg_options)
    for config, rows in {name: rows_of(name, options) for name in names}.items():
        found = alternate({row: job(config, row, options, args) for row in rows}, args.rounds)
        base = found.get(TEACHER, found[STUDENT])
        ratios = {row: ratio(figures, base, 'median_s') for row, figures in found.items()}
        yield dict(config=config, steps=found, to_student_and_teacher=ratios)


def job(config: str, terms: str, options: dict[str, Any], args: Namespace) -> dict[str, Any]:
    """What the child is told."""
    index = args.device.partition(':')[2] or '0'
    visible = {} if args.device == 'cuda' else {'CUDA_VISIBLE_DEVICES': index}
    return dict(
        config=config,
        terms=terms,
        options=options,
        size=(64, 64) if args.quick and not args.size else args.size,
        batch=2 if args.quick and not args.batch else args.batch,
        dtype=args.dtype,
        tf32=args.tf32,
        threads=args.threads,
        iters=1 if args.quick else args.iters,
        env={'CUDA_VISIBLE_DEVICES': '-1'} if args.device == 'cpu' else visible,
    )


def render(result: dict[str, Any]) -> str:
    """One config as a table."""
    rows, notes = [], []
    for name, figures in result['steps'].items():
        label = name if name.startswith('+') or name == STUDENT else f'+ {name}'
        if 'failed' in figures:
            notes.append(f'{label} failed: {figures["failed"]}')
            rows.append([label, 'failed', *['-'] * (len(HEAD) - 2)])
            continue
        rows.append(
            [
                label,
                number(figures['median_s'] * 1e3),
                number(figures['min_s'] * 1e3),
                number(figures['added_mib'], 1),
                number(figures['peak_mib'], 0),
                number(result['to_student_and_teacher'][name]),
            ]
        )
    head = HEAD if TEACHER in result['steps'] else [*HEAD[:-1], TO_STUDENT]
    return '\n'.join([result['config'], table(head, rows), *notes, ''])


def sound(result: dict[str, Any]) -> bool:
    """Whether every step ran."""
    return not any('failed' in figures for figures in result['steps'].values())
