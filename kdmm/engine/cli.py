"""Command lines of ``tools/train.py`` and ``tools/test.py``, with the base libraries' flags."""

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch.distributed as dist
from mmengine.config import Config, DictAction
from mmengine.registry import METRICS

from kdmm.config import load_config, use_amp
from kdmm.datasets.workers import close_workers
from kdmm.engine.build_errors import arguments
from kdmm.engine.checks import check_data
from kdmm.engine.launch import COLLECTED, report, start_process_group, stop_process_group
from kdmm.engine.runner import build_runner
from kdmm.engine.work_dir import exclusive_run, latest_checkpoint, make_folder
from kdmm.errors import ConfigError, ProofError, TrainingError
from kdmm.hooks.interrupt import Interrupted, end_at_once


def train(argv: list[str] | None = None) -> None:
    """Train, and distil if the config has a ``kd`` section."""
    parser = command_line('Train a model; distil it if the config has a kd section')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from the latest checkpoint of the work dir, or from the one named',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='',
        choices=['', 'float16', 'bfloat16'],
        metavar='{float16,bfloat16}',
        help='mixed precision (GPU only); without a dtype the base library chooses',
    )
    args = parser.parse_args(separate_configs(argv))

    def run(cfg: Config) -> None:
        if args.amp is not None:
            use_amp(cfg, args.amp)
        choose_start(cfg, args.resume)
        check_data(cfg, ('train', 'val'))
        with exclusive_run(cfg.work_dir):  # from before anything is written there
            build_runner(cfg).train()

    launch(args, run)


def choose_start(cfg: Config, resume: str | None) -> None:
    """Apply ``--resume``: continue the run, or start it as its config says.

    Args:
        cfg: Gets ``resume`` and ``load_from``.
        resume: A checkpoint, 'auto' for the latest of the work dir if there is one, or None.
    """
    cfg.resume = resume is not None
    if resume not in (None, 'auto'):
        cfg.load_from = resume
    elif resume and cfg.get('load_from'):  # from which MMEngine would resume in any case
        if latest_checkpoint(cfg.work_dir, cfg):
            cfg.load_from = None
        else:
            cfg.resume = False


def test(argv: list[str] | None = None) -> None:
    """Evaluate a checkpoint with the config's metrics."""
    parser = command_line('Evaluate a checkpoint')
    parser.add_argument('checkpoint', help='a checkpoint of the plain model, ours or not')
    parser.add_argument('--out', help='folder for the predictions, as the metric writes them')
    args = parser.parse_args(argv)

    def run(cfg: Config) -> None:
        cfg.pop('kd', None)  # the student alone is evaluated
        cfg.load_from, cfg.strict_load = args.checkpoint, True
        if args.out:
            keep_predictions(cfg, args.out)
        check_data(cfg, ('test',))
        build_runner(cfg).test()

    launch(args, run)


def keep_predictions(cfg: Config, folder: str) -> None:
    """Let the metrics of the test write their predictions into ``folder``.

    Raises:
        ConfigError: If none of them can, or the folder cannot be made.
    """
    evaluator = cfg.get('test_evaluator')
    metrics = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    able = []
    with METRICS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        for metric in metrics:
            kind = metric.get('type') if isinstance(metric, Mapping) else None
            built = registry.get(kind) if isinstance(kind, str) else kind
            able += [metric] if built and {'output_dir', 'keep_results'} <= arguments(built) else []
    if not able:
        kinds = ', '.join(
            str(m.get('type')) if isinstance(m, Mapping) else repr(m) for m in metrics
        )
        raise ConfigError(
            f'no metric of test_evaluator ({kinds}) takes output_dir',
            key='--out',
            got=folder,
            fix='Leave --out out, or set the argument with which the metric writes its '
            'predictions.',
        )
    make_folder(folder, '--out')
    for metric in able:
        metric.update(output_dir=folder, keep_results=True)


def command_line(description: str) -> argparse.ArgumentParser:
    """Parser with the flags of all commands."""
    parser = Parser(description=description)
    parser.add_argument('config', help="config file, or 'kdmm::cirkd/...' of the installed package")
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Overrides,
        default={},
        help='overrides, key=value; lists as key="[a,b]" or key=a,b, without blanks',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


class Parser(argparse.ArgumentParser):
    """Parser whose errors one of several processes prints."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line; exit code 2."""
        report(f'{self.format_usage()}{self.prog}: error: {message}')
        raise SystemExit(2)


class Overrides(DictAction):
    """MMEngine's ``--cfg-options`` that refuses anything but ``key=value``."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Parse the values one by one."""
        for value in values:
            key, sign, _ = value.partition('=')
            if not key or not sign:
                raise argparse.ArgumentError(
                    self, f'{value!r} is no key=value (a config stands before --cfg-options)'
                )
            try:
                super().__call__(parser, namespace, [value], option_string)
            except (AssertionError, ValueError, IndexError) as error:
                raise argparse.ArgumentError(self, f'{value}: {error}') from None


def separate_configs(argv: Sequence[str] | None) -> list[str]:
    """Arguments in which ``--amp CONFIG`` and ``--resume CONFIG`` are a flag and a config."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for place, (flag, value) in enumerate(zip(arguments, arguments[1:], strict=False)):
        config = value.endswith(('.py', '.json', '.yaml', '.yml')) or '::' in value
        if flag == '--amp' and (config or os.path.exists(value)):
            arguments[place] = '--amp='
        elif flag == '--resume' and config:
            arguments[place] = '--resume=auto'
    return arguments


def launch(args: argparse.Namespace, run: Callable[[Config], Any]) -> None:
    """Read the config, open the process group, run; turn errors into messages and exit codes.

    A wrong input is one message with exit code 2. Errors of the system (a full disk) and of
    training are one message with exit code 1. Other errors show their traceback.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with _signals_raise():
        _launch(args, run)


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, unless another handler is set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _launch(args: argparse.Namespace, run: Callable[[Config], Any]) -> None:
    try:
        cfg = load_config(args.config, args.cfg_options, args.work_dir)
        cfg.launcher = args.launcher
        start_process_group(cfg.launcher, cfg.get('env_cfg', {}).get('dist_cfg'))
        run(cfg)
    except (ConfigError, TrainingError, OSError) as error:
        if os.environ.get('KDMM_TRACEBACK'):
            raise
        report(f'kdmm: error (rank {os.environ.get("RANK", "0")}): {one_line(error)}')
        code = 2 if isinstance(error, (ConfigError, FileNotFoundError)) else 1
        if dist.is_initialized():  # closing the group would wait for ranks that are not leaving
            _exit(code)
        raise SystemExit(code) from None
    except KeyboardInterrupt as stop:
        number = signal.Signals(stop.args[0] if stop.args else signal.SIGINT)
        rank = os.environ.get('RANK', '0')
        print(f'kdmm: {number.name} (rank {rank}): ended at once', file=sys.stderr, flush=True)
        if dist.is_initialized():
            _exit(128 + number)
        raise SystemExit(128 + number) from None
    except Interrupted as stop:  # all ranks agreed to leave
        _finish(int(stop.code or 0))
        raise
    except Exception:
        if os.environ.get(COLLECTED):
            report(traceback.format_exc(), expected=False)
            _exit(1)
        raise
    else:
        _finish(0)


def run_command(action: Callable[[], None]) -> None:
    """Run a command of one process that writes a file and proves it.

    Exit code 2 for wrong input, 1 for a failed proof or disk, with one message.
    """
    warnings.simplefilter('ignore')  # of the libraries, about themselves
    try:
        action()
    except (ConfigError, ProofError, OSError) as error:
        if os.environ.get('KDMM_TRACEBACK'):
            raise
        text, wrong = ' '.join(str(error).split()), isinstance(error, ConfigError)
        print(f'kdmm: error: {text}{"" if wrong else "; nothing was written"}', file=sys.stderr)
        raise SystemExit(2 if wrong else 1) from None


def one_line(error: Exception) -> str:
    """Reduce a message to one line, without a traceback of a worker."""
    text = str(error) or type(error).__name__
    if 'Original Traceback' in text:
        text = text.strip().splitlines()[-1].partition(': ')[2]
    return ' '.join(text.split())


def _finish(code: int) -> None:
    """Close the process group; end the process of a gloo rank."""
    gloo = dist.is_initialized() and dist.get_backend() == 'gloo'
    stop_process_group()
    if gloo:  # its threads were seen to abort the process while the interpreter shuts down
        _exit(code)


def _exit(code: int) -> None:
    """End the process at once, after flushing the logs and closing the workers."""
    close_workers()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
