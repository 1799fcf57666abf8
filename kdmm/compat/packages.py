"""The base libraries: which are there, and their configs, ``mmseg::...``.

kdmm runs with any one of them. A config that needs another is refused with the name that pip knows,
before MMEngine says that some class is in no registry.

MMEngine finds ``package::config`` below ``<package>/.mim`` of a distribution that it looks up in
``MODULE2PACKAGE``. Two things are missing from that: the maintained line of MMSegmentation is not
called ``mmsegmentation``, and a source checkout of kdmm keeps its configs in the root of the
repository.
"""

import difflib
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from kdmm.errors import ConfigError

#: What pip calls a module: the distribution that kdmm is tested with, and upstream's other name.
DISTRIBUTION: dict[str, tuple[str, str]] = {
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'mmpose': ('--no-deps mmpose', ''),  # it asks for chumpy, which does not build any more
    'xtcocotools': (
        'cython && pip install --no-build-isolation --no-deps --no-binary xtcocotools xtcocotools',
        '',
    ),
    'cv2': ('opencv-python', ''),
    'sklearn': ('scikit-learn', ''),
    'yaml': ('pyyaml', ''),
}
#: Libraries that are a scope of MMEngine's registries, and the modules to try them by: they import
#: mmcv late, MMPose xtcocotools, and the models of MMPose MMDetection.
SCOPES = {
    'mmseg': ('mmcv', 'mmseg'),
    'mmdet': ('mmcv', 'mmdet'),
    'mmpretrain': ('mmcv', 'mmpretrain'),
    'mmpose': ('mmcv', 'mmpose.datasets', 'mmpose.models'),
}

_mmengine_cfg_path = Config._get_cfg_path


def pip_install(package: str) -> str:
    """The command that installs a package, and the upstream name where it is another."""
    ours, upstream = DISTRIBUTION.get(package, (package, ''))
    return f'pip install {ours}' + (f" (upstream's is called {upstream})" if upstream else '')


def require(package: str, why: str) -> ModuleType:
    """Import a base library, or a module of it.

    Args:
        package: A module; a name of `SCOPES` stands for the library with what it needs.
        why: The key, and what it asks for.

    Raises:
        ConfigError: It cannot be imported; names what is missing, and how pip installs that.
    """
    for module in SCOPES.get(package, (package,)):
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            missing = (error.name or module).partition('.')[0]
            raise ConfigError(
                f'{missing} is not installed: {pip_install(missing)}', key=why
            ) from error
        except Exception as error:  # a check of versions raises whatever it likes
            reason = f'{type(error).__name__}: {error}'
            raise ConfigError(f'{module} cannot be imported ({reason})', key=why) from error
    return found


def require_scopes(cfg: Mapping[str, Any] | Config, where: str = '') -> None:
    """Import the base libraries that a config names, as ``default_scope`` or ``type='mmdet.X'``.

    Args:
        cfg: A config, or any part of one.
        where: What stands before the key in an error.

    Raises:
        ConfigError: One of them cannot be imported.
    """
    scope = cfg.get('default_scope')
    # a Config is no Mapping; what it imports is left for its reader to find missing
    node = cfg._to_lazy_dict() if isinstance(cfg, Config) else cfg
    if scope in SCOPES:
        require(scope, f'{where}default_scope={scope!r}')
    for kind in _types(node):
        scope, _, name = kind.partition('.')
        if name and scope in SCOPES:
            require(scope, f'{where}type={kind!r}')


def _types(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get('type'), str):
            yield node['type']
        node = list(node.values())
    if isinstance(node, list | tuple):
        for child in node:
            yield from _types(child)


def register_packages() -> None:
    """Add the entries that MMEngine lacks; those that it resolves by itself stay as they are."""
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
        raise ModuleNotFoundError(
            f"'{package}::' names the package {package!r}, which is not installed: "
            f'{pip_install(package)}',
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
    package, inherits, _ = cfg_path.partition('::')
    if inherits and package.isidentifier() and find_spec(package) is None:
        config_root(package)  # says how it is installed, which MMEngine does not
    return _mmengine_cfg_path(cfg_path, filename)


def _has_distribution(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
