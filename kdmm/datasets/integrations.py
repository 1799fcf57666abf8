"""Data sets that derive from a base library; a location of the registry, so imported when first searched."""

from importlib.util import find_spec

if find_spec('mmseg') is not None:
    from . import camvid

    __all__ = ['camvid']
