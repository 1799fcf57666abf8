"""Ships configs, launchers and the model index inside the wheel, where MMEngine and mim look."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

#: What runs without a checkout; the other scripts set one up, test it or draw what lies in it.
TOOLS = (
    'common.sh',
    'convert.py',
    'dist_test.sh',
    'dist_train.sh',
    'export.py',
    'init_checkpoint.py',
    'profile.py',
    'slurm_test.sh',
    'slurm_train.sh',
    'test.py',
    'torchrun.py',
    'train.py',
    'visualize.py',
)


class BuildWithConfigs(build_py):
    """Adds ``kdmm/.mim`` to a wheel; an editable install uses the folders of the checkout."""

    def run(self) -> None:
        """Builds the package, then copies what belongs to ``kdmm/.mim``."""
        super().run()
        if getattr(self, 'editable_mode', False):
            return
        mim = Path(self.build_lib) / 'kdmm' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        skip = shutil.ignore_patterns('__pycache__')
        shutil.copytree(ROOT / 'configs', mim / 'configs', ignore=skip)
        (mim / 'tools').mkdir()
        for name in TOOLS:
            shutil.copy2(ROOT / 'tools' / name, mim / 'tools')
        shutil.copy2(ROOT / 'model-index.yml', mim)


setup(cmdclass={'build_py': BuildWithConfigs})
