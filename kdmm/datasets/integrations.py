"""Data sets that derive from a base library; a location of the registry, searched on demand.

Every lookup of a data set comes here, so a library that cannot be imported concerns only what
derives from it: such a class is registered as a function that says what is missing.
"""

from typing import Any, NoReturn

from kdmm.compat.packages import require
from kdmm.errors import ConfigError
from kdmm.registry import DATASETS


def _register(name: str, module: str) -> None:
    try:
        require(module, f'kdmm.{name}')
    except ConfigError as error:
        missing = error

        def refuse(**_: Any) -> NoReturn:
            raise missing

        DATASETS.register_module(name=name, module=refuse)


_register('CamVidDataset', 'kdmm.datasets.camvid')
_register('PersonCropDataset', 'kdmm.datasets.person_crops')
