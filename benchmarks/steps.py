"""Whole training steps: the student alone, with its teacher, with each loss and with all.

The rows take a step each in turn, so that a busy moment of the machine meets all alike; the ratios
are those of steps that were taken one after the other. The last part of the file is the process
of a row.
"""

import contextlib
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from kdmm.utils.tables import for_stream

from .errors import stop
from .figures import NOTE, marked, number, ratios_in_turn, span
from .run import READY, alternate, in_turn, one_by_one

STUDENT, TEACHER, ALL = 'student', '+ teacher forward', '+ all'
HEAD = ['step', 'median ms', 'quartiles', 'min ms', 'added MiB', 'peak MiB']
HEAD += ['to student + teacher', 'its quartiles']
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
        jobs = {row: job(config, row, options, args) for row in rows}
        found = alternate(jobs, args.rounds, one_by_one if args.apart else in_turn)
        base = found.get(TEACHER, found[STUDENT])
        ratios = {row: ratios_in_turn(figures, base) for row, figures in found.items()}
        yield dict(config=config, steps=found, to_student_and_teacher=ratios)


def job(config: str, terms: str, options: dict[str, Any], args: Namespace) -> dict[str, Any]:
    """Job description for the child process."""
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
        ratio = result['to_student_and_teacher'][name] or dict(median=None, quartiles=None)
        if 'failed' in figures:
            notes.append(f'{label} failed: {figures["failed"]}')
            rows.append([label, 'failed', *['-'] * (len(HEAD) - 2)])
            continue
        rows.append(
            [
                marked(label, figures),
                number(figures['median_s'] * 1e3),
                span(figures['quartiles_s'], 1e3),
                number(figures['min_s'] * 1e3),
                number(figures['added_mib'], 1),
                number(figures['peak_mib'], 0),
                number(ratio['median']),
                span(ratio['quartiles']),
            ]
        )
    if any(figures.get('disturbed') for figures in result['steps'].values()):
        notes.append(NOTE)
    head = HEAD if TEACHER in result['steps'] else [*HEAD[:-2], TO_STUDENT, HEAD[-1]]
    return '\n'.join([result['config'], for_stream(head, rows, numbers=True), *notes, ''])


def sound(result: dict[str, Any]) -> bool:
    """Return True if every step ran."""
    return not any('failed' in figures for figures in result['steps'].values())


def measure_steps(job: dict[str, Any]) -> dict[str, Any]:
    """Times in seconds and memory in MiB of steps on blank images.

    ``job['terms']`` is `STUDENT`, `TEACHER`, `ALL` or the name of a term. With ``job['turns']``
    every step waits for a line of the standard input, its batch at hand, and says that it does.
    """
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        return _measure(job, folder)


def _measure(job: dict[str, Any], folder: str) -> dict[str, Any]:
    import kdmm  # noqa: F401  (registers everything)
    from kdmm.engine import build_runner, load_config, use_amp
    from kdmm.engine.dry_run import only_term, to_blank_data, to_dry_run
    from kdmm.engine.resources import MIB

    terms = job['terms']
    cfg = load_config(job['config'], job['options'])
    cfg.env_cfg = dict(cfg.get('env_cfg') or {}, cudnn_benchmark=False)
    if terms == STUDENT:
        cfg.pop('kd', None)
    elif terms not in (TEACHER, ALL):
        only_term(cfg, terms)
    if job['dtype'] != 'float32':
        use_amp(cfg, job['dtype'])
    to_blank_data(cfg, job['size'])
    if job['batch']:
        cfg.train_dataloader.batch_size = job['batch']
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    loop = dict(warmup=1, iters=job['iters'], apart=False, teacher_only=terms == TEACHER)
    to_dry_run(cfg, dict(loop, type='kdmm.ProfileLoop'), folder)
    runner = build_runner(cfg)
    if job.get('turns'):
        runner.register_hook(_turns(), priority='LOWEST')
    runner.train()
    done: Any = runner.train_loop
    return dict(
        times=done.seconds,
        peak_mib=done.peak / MIB,
        added_mib=done.added / MIB,
        memory_exact=done.monitor.exact,
    )


def _turns() -> Any:
    """A hook that lets the loop wait before every step, where it waits for data."""
    from mmengine.hooks import Hook

    class Turns(Hook):
        def before_train(self, runner: Any) -> None:
            runner.train_loop.dataloader_iterator = _wait(runner.train_loop.dataloader_iterator)

    return Turns()


def _wait(batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        print(READY, file=sys.__stdout__, flush=True)  # sys.stdout is the error stream here
        sys.stdin.readline()
        yield batch
