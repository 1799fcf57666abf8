"""A whole model with initial weights: what the arms of a comparison have in common."""

from collections import OrderedDict
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner import set_random_seed
from torch import Tensor

from kdmm.errors import ConfigError
from kdmm.transfer.registered import quiet, require
from kdmm.transfer.request import check_out
from kdmm.transfer.writing import Draft, tidy


def without_pretrained(node: Any) -> Any:
    """A copy of a config section that loads no weights: ``pretrained`` and such ``init_cfg`` go.

    The keys are removed, so that the initialisation which a class has by itself takes their place.
    """
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if key != 'pretrained'}
        if _loads(kept.get('init_cfg')):
            others = kept.pop('init_cfg')
            others = [init for init in others if not _loads(init)] if _many(others) else []
            kept |= dict(init_cfg=others) if others else {}
        return type(node)({key: without_pretrained(value) for key, value in kept.items()})
    if _many(node):
        return type(node)(without_pretrained(item) for item in node)
    return node


def fresh_state(cfg: Config, seed: int) -> 'OrderedDict[str, Tensor]':
    """The weights that ``cfg.model`` starts from under ``seed`` if nothing pretrained is loaded.

    Raises:
        ConfigError: If there is no such model.
    """
    if 'model' not in cfg:
        raise ConfigError(f'config: {cfg.filename!r} has no model')
    scope = cfg.get('default_scope', 'mmengine')
    require(scope, 'config')
    model = without_pretrained(cfg.model)
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model['_scope_'] = scope
    set_random_seed(seed)
    with quiet():
        try:
            net = MODELS.build(model)
        except Exception as error:  # whatever a class thinks of its arguments
            reason = f'{type(error).__name__}: {error}'.replace('\n', ' ')
            raise ConfigError(f'config: its model cannot be built ({reason})') from error
        if isinstance(net, BaseModule):
            net.init_weights()
    return tidy(net.state_dict())


def write_fresh(cfg: Config, seed: int, out: str, force: bool = False) -> int:
    """Write `fresh_state` as ``dict(state_dict=...)``.

    Returns:
        Number of entries.

    Raises:
        ConfigError: If the model or the file is impossible.
    """
    check_out(out, force, [])
    state = fresh_state(cfg, seed)
    with Draft(out) as draft:
        draft.save(dict(state_dict=state))
        draft.commit()
    return len(state)


def _loads(init: Any) -> bool:
    """Whether an ``init_cfg`` reads a file."""
    if _many(init):
        return any(map(_loads, init))
    kind = init.get('type') if isinstance(init, dict) else None
    return getattr(kind, '__name__', kind) in ('Pretrained', 'PretrainedInit')


def _many(node: Any) -> bool:
    return isinstance(node, list | tuple)
