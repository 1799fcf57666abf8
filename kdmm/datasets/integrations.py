"""Data sets that derive from a base library; a location of the registry, searched on demand."""

from importlib.util import find_spec

if find_spec('mmseg') is not None:
    from . import camvid  # noqa: F401

if find_spec('mmpose') is not None:
    from . import person_crops  # noqa: F401
