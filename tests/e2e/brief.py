"""Settings that make a run start sooner and change nothing that it computes."""

import gc
import os
from functools import cache
from typing import Any

from mmengine.config import utils
from yapf.yapflib import yapf_api


def leave_configs_unformatted() -> None:
    """Check the syntax of a config's text, as yapf would, and leave its layout alone."""

    def format_code(text: str, **options: Any) -> tuple[str, bool]:
        compile(text, '<config>', 'exec')
        return text, False

    yapf_api.FormatCode = format_code


def read_metafiles_once() -> None:
    """A name as ``mmseg::...`` is looked up in all fifty files of its library, each time.

    MMEngine only reads what they say, so it is shared.
    """
    original = utils.load

    @cache
    def loaded(path: str, written: int) -> Any:
        return original(path)

    def load(path: str) -> Any:
        return loaded(path, os.stat(path).st_mtime_ns)

    utils.load = load


def forget_imports() -> None:
    """Keep what was imported out of later collections.

    MMEngine asks for a full one for each data set: a third of a second for a million objects.
    """
    gc.collect()
    gc.freeze()


def start_sooner() -> None:
    """For a process of its own; it looks at no compilers for the log either."""
    from mmengine.runner import runner

    leave_configs_unformatted()
    forget_imports()
    runner.collect_env = dict
