"""Models inside wrappers, and the parts of a model's config that read weights from files."""

from collections.abc import Mapping
from typing import Any

from mmengine.model import PretrainedInit, is_model_wrapper
from mmengine.registry import WEIGHT_INITIALIZERS

#: Arguments of the base libraries' classes that name a file, a model of a zoo, or say that its
#: weights are fetched: all of them; timm's; teachers of MMDetection and MMPose; codebooks of BEiT.
_ARGUMENTS = (
    'pretrained',
    'checkpoint_path',
    'checkpoint',
    'teacher_ckpt',
    'teacher_pretrained',
    'codebook_init_path',
)


def unwrapped(model: Any) -> Any:
    """Return the model inside a parallel wrapper, or ``model`` itself."""
    return model.module if is_model_wrapper(model) else model


def pretrained_init(init: Any) -> Mapping[str, Any] | None:
    """The part of an ``init_cfg`` that reads a file, or None.

    Args:
        init: A dict with a type, by name or class; a list or tuple of them, of which MMEngine lets
            the last one decide; or None. Its parts for single children (``override``) count.
    """
    if isinstance(init, list | tuple):
        found = [part for part in map(pretrained_init, init) if part is not None]
        return found[-1] if found else None
    if not isinstance(init, Mapping):
        return None
    return init if _reads(init) else pretrained_init(init.get('override'))


def without_pretrained(node: Any) -> Any:
    """A copy of a config section that reads no weights from files.

    ``pretrained`` and such ``init_cfg`` are removed wherever they stand, so that the initialisation
    which a class has by itself takes their place.
    """
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if not _asks(key, value)}
        if node.get('pretrained') is True or _fetches(node.get('type')):
            kept['pretrained'] = False
        if 'init_cfg' in kept:
            init = _without_files(kept.pop('init_cfg'))
            kept |= {} if init is _NOTHING else dict(init_cfg=init)
        return type(node)({key: without_pretrained(value) for key, value in kept.items()})
    if isinstance(node, list | tuple):
        return type(node)(without_pretrained(item) for item in node)
    return node


_NOTHING = object()


def _without_files(init: Any) -> Any:
    """``init`` without what reads a file; `_NOTHING` if that is all of it."""
    if isinstance(init, list | tuple):
        kept = [part for part in map(_without_files, init) if part is not _NOTHING]
        return _NOTHING if init and not kept else type(init)(kept)
    if not isinstance(init, dict):
        return init
    if _reads(init):
        return _NOTHING
    if pretrained_init(init.get('override')) is None:
        return init
    others = {key: value for key, value in init.items() if key != 'override'}
    override = _without_files(init['override'])
    return type(init)(others if override is _NOTHING else others | dict(override=override))


def _reads(init: Mapping[str, Any]) -> bool:
    """Return whether a dict of an ``init_cfg`` reads a file, also by MMSegmentation's types."""
    kind = init.get('type')
    if isinstance(kind, str):
        registered = WEIGHT_INITIALIZERS.module_dict.get(kind)
        kind = kind.rpartition('.')[2] if registered is None else registered
    if isinstance(kind, type) and issubclass(kind, PretrainedInit):
        return True
    return str(kind).startswith('Pretrained') or 'checkpoint' in init


def _asks(key: Any, value: Any) -> bool:
    """Return whether an argument names weights; an empty value names none."""
    return key in _ARGUMENTS and bool(value)


def _fetches(kind: Any) -> bool:
    """Return whether a class fetches weights by default: MMSegmentation's of timm."""
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2] == 'TIMMBackbone'
