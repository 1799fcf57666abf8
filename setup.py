"""Ships configs, tools and the model index inside the wheel, where MMEngine looks for them."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


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
        for folder in ('configs', 'tools'):
            shutil.copytree(ROOT / folder, mim / folder, ignore=skip)
        shutil.copy2(ROOT / 'model-index.yml', mim)


setup(cmdclass={'build_py': BuildWithConfigs})
