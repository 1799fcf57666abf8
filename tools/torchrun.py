#!/usr/bin/env python3
"""Start the processes of one machine with torchrun; an error is one message at the end.

    python tools/torchrun.py [arguments of torchrun] SCRIPT [its arguments]

torchrun itself ends the output with a traceback of its own and exit code 1. Here every process
leaves its message (or its traceback, if it is no message of kdmm's) in the file that torchrun gives
it for that, and the first is printed when all have ended. The exit code is that of the process that
failed: 2 for wrong input, 1 for a failure in training, 128 + n for signal n.
"""

import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

COLLECTED = 'KDMM_ERRORS_COLLECTED'  # read by kdmm.engine.launch.report


def main(argv: Sequence[str] | None = None) -> int:
    """Run torchrun; the exit code."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    args = parse_args(argv)
    refusal = _port_in_use(args)
    if refusal:
        return _stop(refusal, 2)
    os.environ[COLLECTED] = '1'
    logging.disable(logging.ERROR)  # torchrun's own account of what is printed below
    try:
        run(args)
    except ChildFailedError as error:
        return _report(error.failures)
    except SignalException as error:
        return 128 + int(error.sigval)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (OSError, RuntimeError, ValueError) as error:  # of the rendezvous
        if os.environ.get('KDMM_TRACEBACK'):
            raise
        return _stop(f'the processes cannot be started ({type(error).__name__}: {error})', 1)
    return 0


def _port_in_use(args: Any) -> str:
    """Explain why other nodes cannot reach the first; empty if they can."""
    if int(args.node_rank) or not args.master_port:
        return ''
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(('', args.master_port))
    except OverflowError:
        return f'PORT {args.master_port}: there is no such port, expected 1024 to 65535'
    except OSError as error:
        return f'PORT {args.master_port} cannot be used ({error.strerror}): name a free one'
    return ''


def _report(failures: Mapping[int, Any]) -> int:
    """Print why the processes failed; the exit code."""

    def order(rank: int) -> tuple[bool, float, int]:
        data = failures[rank].error_file_data
        return not data.get('expected', False), data.get('time', float('inf')), rank

    first = min(failures, key=order)
    failure = failures[first]
    code = failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
    if 'time' in failure.error_file_data:
        print(failure.message.rstrip(), file=sys.stderr, flush=True)
    elif failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        hint = ': was the memory exhausted?' if name == 'SIGKILL' else ''
        print(f'kdmm: error (rank {first}): ended by {name}{hint}', file=sys.stderr, flush=True)
    return code


def _stop(text: str, code: int) -> int:
    print(f'kdmm: error: {text}', file=sys.stderr, flush=True)
    return code


if __name__ == '__main__':
    sys.exit(main())
