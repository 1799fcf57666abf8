"""Turn a training log into one live line; the log goes to a file.

usage: dist_train.sh CONFIG 2 2>&1 | python tools/progress.py NAME --log FILE
"""

import argparse
import re
import signal
import sys
import time
from typing import TextIO

TRAIN = re.compile(r'Iter\(train\) +\[ *(\d+)/(\d+)\].*? eta: (\S+).*? loss: (\S+)')
METRIC = re.compile(r'Iter\(val\) .*? mIoU: (\S+)')
BAR = 24


class Progress:
    """The state of one training, read from its log lines.

    Args:
        name: What to call it.
        out: Where the line goes; on a terminal it is rewritten in place, elsewhere a line per
            tenth is printed.
    """

    def __init__(self, name: str, out: TextIO) -> None:
        self.name = name
        self.out = out
        self.live = out.isatty()
        self.done, self.total = 0, 0
        self.eta, self.loss, self.metric = '-', '-', '-'
        self.start = time.monotonic()
        self._printed = -1

    def feed(self, line: str) -> None:
        """Take one log line."""
        if match := TRAIN.search(line):
            self.done, self.total = int(match[1]), int(match[2])
            self.eta, self.loss = match[3], match[4]
        elif match := METRIC.search(line):
            self.metric = match[1]
        else:
            return
        self._show()

    def finish(self) -> None:
        """Leave the last state on the screen."""
        self.out.write(('\r' if self.live else '') + self.text() + '\n')
        self.out.flush()

    def text(self) -> str:
        """The line."""
        filled = BAR * self.done // self.total if self.total else 0
        spent = int(time.monotonic() - self.start)
        bar = '#' * filled + '.' * (BAR - filled)
        return (
            f'{self.name:<14}[{bar}] {self.done}/{self.total or "-"}  loss {self.loss}  '
            f'mIoU {self.metric}  {spent // 60}:{spent % 60:02d}  ETA {self.eta:<8}'
        )

    def _show(self) -> None:
        tenth = 10 * self.done // self.total if self.total else 0
        if not self.live and tenth in (0, 10, self._printed):
            return
        self._printed = tenth
        self.out.write(('\r' if self.live else '') + self.text() + ('' if self.live else '\n'))
        self.out.flush()


def main() -> None:
    """Copy standard input to the log and show the progress."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('name')
    parser.add_argument('--log', required=True)
    args = parser.parse_args()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the training, whose last words count
    progress = Progress(args.name, sys.stdout)
    with open(args.log, 'w', encoding='utf-8') as log:
        for line in sys.stdin:
            log.write(line)
            log.flush()
            progress.feed(line)
    progress.finish()


if __name__ == '__main__':
    main()
