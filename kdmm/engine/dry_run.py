"""Turn a config into a dry run: the same training step without data, weights and files."""

from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import Config

from kdmm.config import SECTION, objective_class
from kdmm.errors import ConfigError, nearest
from kdmm.utils.models import without_pretrained

#: Number of blank images.
LENGTH = 256
_STAGES = ('val', 'test')
#: Default hooks of MMEngine that a dry run switches off.
_DEFAULT_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)


def to_dry_run(cfg: Config, loop: Mapping[str, Any], work_dir: str) -> None:
    """Let ``cfg`` run ``loop`` and nothing else.

    No weights are read, no checkpoint, log or validation is made. The config's own hooks (EMA and
    the like) stay. Terms with a scheduled or measured weight get weight 1, so that they act from
    the first step.

    Args:
        cfg: Changed in place.
        loop: Config of the training loop.
        work_dir: Where the Runner may write.
    """
    cfg.work_dir, cfg.resume, cfg.load_from = work_dir, False, None
    cfg.train_cfg, cfg.param_scheduler, cfg.log_level = dict(loop), None, 'ERROR'
    for stage in _STAGES:
        for key in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{stage}_{key}'] = None
    cfg.default_hooks = dict.fromkeys(_DEFAULT_HOOKS)
    cfg.model = without_pretrained(cfg.model)
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or [] if not _needs_weights(hook)]
    section = cfg.get(SECTION)
    if section:
        objective_class(section).dry_run(section)


def only_term(cfg: Config, name: str) -> None:
    """Switch all terms of the objective off but one.

    Raises:
        ConfigError: If there is no such term.
    """
    terms = cfg[SECTION].losses
    if name not in terms:
        raise ConfigError(f'no term {name!r}; {nearest(name, terms)}', key='kd.losses')
    for other, term in terms.items():
        if other != name:
            term['weight'] = 0.0


def to_blank_data(cfg: Config, size: tuple[int, int] | None = None) -> None:
    """Replace the training data by `kdmm.BlankImages` of the crop's size.

    Args:
        cfg: Changed in place. Batch size, sampler and workers stay.
        size: (height, width) in place of the config's.

    Raises:
        ConfigError: If the config does not say the size or is of another task.
    """
    task, classes = _task_and_classes(cfg.model)
    size = (size[0], size[1]) if size else crop_size(cfg)
    if 'size' in (cfg.model.get('data_preprocessor') or {}):
        cfg.model.data_preprocessor.size = size
    dataset = dict(
        type='kdmm.BlankImages', size=size, num_classes=classes, task=task, length=LENGTH
    )
    channels, second = _channels(cfg.model), _second_images(cfg.get(SECTION) or {})
    if channels != 3:
        dataset['channels'] = channels
    if second:
        dataset['second'] = second
    cfg.train_dataloader.dataset = dataset
    for term in ((cfg.get(SECTION) or {}).get('losses') or {}).values():
        if 'num_samples' in term:  # a memory of every image
            term['num_samples'] = LENGTH
        if 'replace' in term:  # the blank images may be fewer than are drawn
            term['replace'] = True


def _task_and_classes(model: Mapping[str, Any]) -> tuple[str, int]:
    for key, task in (('decode_head', 'segmentation'), ('head', 'classification')):
        head = model.get(key)
        head = head[-1] if isinstance(head, list) else head
        if isinstance(head, Mapping) and 'num_classes' in head:
            return task, head['num_classes']
    raise ConfigError(
        'for blank data',
        key='model',
        expected='a segmentation or classification model, with num_classes in decode_head or head',
    )


def _channels(model: Mapping[str, Any]) -> int:
    """Channels of the images: the backbone's, or the preprocessor's means."""
    channels = (model.get('backbone') or {}).get('in_channels')
    mean = (model.get('data_preprocessor') or {}).get('mean') or ()
    return channels if isinstance(channels, int) else len(mean) if len(mean) > 1 else 3


def _second_images(section: Mapping[str, Any]) -> dict[str, int]:
    """Name to channels of the second images that views of teachers read."""
    found: dict[str, int] = {}

    def see(node: Any) -> None:
        if str(node.get('type')).rpartition('.')[2] == 'SecondImage':
            found[node.get('key', 'img2')] = node.get('channels', 3)

    _walk(section.get('teacher'), see)
    return found


def crop_size(cfg: Config) -> tuple[int, int]:
    """Find (height, width) of the images after the training pipeline or the preprocessor.

    Raises:
        ConfigError: If neither says one.
    """
    found: list[Any] = []
    _walk(cfg.get('train_dataloader'), lambda node: found.append(node.get('crop_size')))
    found += [(cfg.model.get('data_preprocessor') or {}).get('size'), cfg.get('crop_size')]
    for value in found:
        if isinstance(value, int):
            return value, value
        if isinstance(value, list | tuple) and len(value) == 2:
            return int(value[0]), int(value[1])
    raise ConfigError(
        'for blank data: the config names no crop size (RandomCrop, data_preprocessor.size)',
        key='crop_size',
        fix='Give one: --size HEIGHT WIDTH',
    )


def _needs_weights(hook: Any) -> bool:
    """Return True if a hook of the config refuses a backbone that starts from no file."""
    kind = hook.get('type') if isinstance(hook, dict) else type(hook)
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2] == 'PretrainedBackboneHook'


def _walk(node: Any, visit: Callable[[Any], None]) -> None:
    """Call ``visit`` on every dict below ``node``, itself included."""
    if isinstance(node, dict):
        visit(node)
        node = list(node.values())
    if isinstance(node, list | tuple):
        for child in node:
            _walk(child, visit)
