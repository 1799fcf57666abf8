"""The model of a config as the base library builds it, without what a run adds."""

from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS

from kdmm.config import SECTION
from kdmm.engine.build_errors import building
from kdmm.errors import ConfigError
from kdmm.pretrained.libraries import require, silenced_logs
from kdmm.utils.models import without_pretrained


def built_model(cfg: Config) -> Any:
    """Build ``cfg.model`` as the base library writes it, in its scope; nothing pretrained is read.

    Args:
        cfg: Its section ``kd`` is ignored.

    Raises:
        ConfigError: If there is no model, its library is not installed, or it cannot be built.
    """
    if 'model' not in cfg:
        raise ConfigError('it has no model', key='config', got=cfg.filename)
    scope = cfg.get('default_scope', 'mmengine')
    require(scope, 'config')
    model = without_pretrained(cfg.model)
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model.setdefault('_scope_', scope)
    rest = {key: value for key, value in cfg.items() if key != SECTION}
    with silenced_logs(), building(rest, 'model'):
        return MODELS.build(model)
