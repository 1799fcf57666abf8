"""Initial weights of a whole model, from which all arms of a comparison start."""

from collections import OrderedDict

from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner import set_random_seed
from torch import Tensor

from kdmm.errors import ConfigError
from kdmm.pretrained.libraries import quiet, require
from kdmm.transfer.writing import Draft, check_out, tidy
from kdmm.utils.models import without_pretrained


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
