"""The same network in another library, where no config of that library is given."""

from typing import Any

from kdmm.errors import ConfigError
from kdmm.transfer.architecture import Architecture
from kdmm.transfer.recognise import Recognised
from kdmm.transfer.registered import ZOO, find_class, parameters_of

#: Types that some libraries write as another type with arguments.
WRITTEN_OUT = dict(
    ResNetV1c=dict(type='ResNet', deep_stem=True),
    ResNetV1d=dict(type='ResNet', deep_stem=True, avg_down=True),
)


def same_in(library: str, source: Architecture, found: Recognised | None) -> Architecture:
    """The source's type and arguments in ``library``.

    Raises:
        ConfigError: If the library has no such type.
    """
    origin = f'the same network in {library}'
    config = _of_weights(found, library) if source.library in ZOO else _of_config(source)
    try:
        cls = find_class(config['type'], library, trusted=True)
    except ConfigError as error:
        if config['type'] not in WRITTEN_OUT:
            raise ConfigError(f'{error}: name the target with --config') from error
        config |= WRITTEN_OUT[config['type']]
        cls = find_class(config['type'], library, trusted=True)
    known = parameters_of(cls)
    args = {key: value for key, value in config.items() if key in known}
    return Architecture(library, cls, origin, args)


def _of_weights(found: Recognised | None, library: str) -> dict[str, Any]:
    if found is None:
        raise ConfigError(f'--config: name the config of {library} that is to get these weights')
    return found.args


def _of_config(source: Architecture) -> dict[str, Any]:
    args = dict(source.args)
    if 'arch' in args and 'extra' not in args:  # an abbreviation of mmpretrain's HRNet
        extra = getattr(source.build(), 'extra', None)
        args |= dict(extra=extra) if extra else {}
    registered = source.kind.__name__
    scope = source.kind.__module__.split('.')[0]
    return dict(args, type=registered if scope == source.library else f'{scope}.{registered}')
