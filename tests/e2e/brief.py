"""Settings that make a run start sooner and change nothing that it computes."""

import copy
import gc
import os
from functools import cache
from typing import Any

from mmengine.config import utils
from yapf.yapflib import yapf_api


def format_configs_once() -> None:
    """A run formats one config up to six times; a text has one form."""
    original = yapf_api.FormatCode

    @cache
    def formatted(text: str, style: tuple[tuple[str, Any], ...], options: Any) -> Any:
        return original(text, style_config=dict(style), **dict(options))

    def format_code(text: str, style_config: dict[str, Any], **options: Any) -> Any:
        return formatted(text, tuple(style_config.items()), tuple(options.items()))

    yapf_api.FormatCode = format_code


def read_metafiles_once() -> None:
    """A name as ``mmseg::...`` is looked up in all fifty files of its library, each time."""
    original = utils.load

    @cache
    def loaded(path: str, written: int) -> Any:
        return original(path)

    def load(path: str) -> Any:
        return copy.deepcopy(loaded(path, os.stat(path).st_mtime_ns))

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

    format_configs_once()
    forget_imports()
    runner.collect_env = dict
