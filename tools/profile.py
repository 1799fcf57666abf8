#!/usr/bin/env python3
"""Profile one training step of a config and its memory; ``--help`` lists the flags."""

import sys

if __name__ == '__main__':
    import kdmm  # noqa: F401  (registers everything)
    from kdmm.engine.profile_cli import profile

    profile()
else:
    # Python puts a script's folder first on its path, so that for every tool beside this one
    # `import profile` (by cProfile, by torch.compile) would find this file: be the standard one
    import importlib.util
    import os

    path = os.path.join(os.path.dirname(os.__file__), 'profile.py')
    spec = importlib.util.spec_from_file_location(__name__, path)
    assert spec is not None and spec.loader is not None
    standard = importlib.util.module_from_spec(spec)
    sys.modules[__name__] = standard
    spec.loader.exec_module(standard)
