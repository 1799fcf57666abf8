"""Configs of other packages: ``mmseg::...``, ``kdmm::...`` and where their files lie.

MMEngine finds ``package::config`` below ``<package>/.mim`` of a distribution that it looks up in
``MODULE2PACKAGE``. Two things are missing from that: the maintained line of MMSegmentation is not
called ``mmsegmentation``, and a source checkout of kdmm keeps its configs in the root of the
repository.
"""

import difflib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

DISTRIBUTION: dict[str, str] = {
    'mmseg': 'onedl-mmsegmentation',
    'mmdet': 'onedl-mmdetection',
    'mmpretrain': 'onedl-mmpretrain',
}

_mmengine_cfg_path = Config._get_cfg_path


def register_packages() -> None:
    """Adds the entries that MMEngine lacks; what it resolves by itself stays as it is."""
    if not _has_distribution('mmsegmentation') and find_spec('mmseg') is not None:
        MODULE2PACKAGE['mmseg'] = 'mmseg'
    MODULE2PACKAGE.setdefault('kdmm', 'kdmm')
    Config._get_cfg_path = staticmethod(_cfg_path)


def config_root(package: str) -> Path:
    """Directory that holds a package's ``configs/`` and ``model-index.yml``.

    Raises:
        ModuleNotFoundError: the package is not installed.
        FileNotFoundError: it is installed without configs.
    """
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        pip_name = DISTRIBUTION.get(package, package)
        raise ModuleNotFoundError(
            f"'{package}::' names the package {package!r}, which is not installed: "
            f'pip install {pip_name}',
            name=package,
        )
    directory = Path(next(iter(spec.submodule_search_locations)))
    for root in (directory / '.mim', directory.parent):
        if (root / 'configs').is_dir():
            return root
    raise FileNotFoundError(f'{package} at {directory} was installed without its configs')


def config_file(config: str) -> Path:
    """File of an installed package's config, ``'mmseg::deeplabv3/x.py'``.

    Raises:
        ValueError: not of the form ``package::path``.
        ModuleNotFoundError: the package is not installed.
        FileNotFoundError: it has no such config; the message names the nearest ones.
    """
    package, _, name = config.partition('::')
    if not package or not name or '::' in name:
        raise ValueError(f"expected a config '<package>::<path>.py', got {config!r}")
    folder = config_root(package) / 'configs'
    path = folder / (name if Path(name).suffix == '.py' else f'{name}.py')
    if path.is_file():
        return path
    names = [file.relative_to(folder).as_posix() for file in folder.rglob('*.py')]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f'; nearest: {", ".join(near)}' if near else ''
    raise FileNotFoundError(f'{package} has no config {name!r}{hint}')


def _cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
    """``Config._get_cfg_path`` that knows kdmm's configs, in a wheel and in a source checkout.

    MMEngine would mark what comes from ``kdmm::`` with the scope ``kdmm``. There is none to mark:
    the configs are the base libraries' and say ``kdmm.`` where they mean it.
    """
    if cfg_path.startswith('kdmm::'):
        return str(config_file(cfg_path)), None
    return _mmengine_cfg_path(cfg_path, filename)


def _has_distribution(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
