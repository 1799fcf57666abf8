"""Check at import that kdmm can run on the installed torch and MMEngine."""

import re
from importlib import import_module
from importlib.util import find_spec

MINIMUM: dict[str, tuple[int, int]] = {'torch': (2, 1), 'mmengine': (0, 10)}

INSTALL: dict[str, str] = {
    'torch': "pip install 'torch>=2.1'",
    'mmengine': "pip install onedl-mmengine (or upstream's 'mmengine>=0.10.7')",
}


def check_versions() -> None:
    """Check torch and MMEngine against :data:`MINIMUM`.

    Raises:
        ImportError: one of them is missing or too old; the message names the version found, the one
            that is needed and the command that installs it.
    """
    for name, minimum in MINIMUM.items():
        needed = f'kdmm needs {name} >= {minimum[0]}.{minimum[1]}'
        if find_spec(name) is None:
            raise ImportError(f'{needed}, which is not installed: {INSTALL[name]}')
        found = str(import_module(name).__version__)
        if parse_version(found) < minimum:
            raise ImportError(f'{needed}, found {found}: {INSTALL[name]}')


def parse_version(text: str) -> tuple[int, int]:
    """Major and minor number of a version: ``'2.14.1+cu130'`` gives ``(2, 14)``."""
    match = re.match(r'(\d+)(?:\.(\d+))?', text)
    if match is None:
        raise ValueError(f'not a version: {text!r}')
    return int(match[1]), int(match[2] or 0)
