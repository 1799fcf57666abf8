"""Turn errors raised while a config is built into one message.

MMEngine's registries raise a KeyError for a name that they do not have, and classes raise whatever
they do for arguments that they do not take. While a Runner builds, that becomes a `ConfigError`
with the key, the class and the nearest names. So does what the libraries raise in the first step of
a run, where networks, data and metrics meet; what happens later is left alone.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from mmengine.device import is_cuda_available, is_mlu_available, is_musa_available, is_npu_available
from mmengine.registry import OPTIMIZERS, Registry
from mmengine.runner import BaseLoop
from mmengine.runner import Runner as BaseRunner
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from kdmm.config import is_wrapper
from kdmm.errors import ConfigError, nearest, refuse_unknown, rewrapped

#: Errors of registries, and of classes with wrong arguments.
MISTAKES = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError,
    NotImplementedError, TypeError, ValueError,
)  # fmt: skip
#: Keys of a config that a Runner builds; other keys may hold copies.
BUILT = (
    'model', 'kd', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'optim_wrapper',
    'param_scheduler', 'val_evaluator', 'test_evaluator', 'default_hooks', 'custom_hooks',
    'train_cfg', 'val_cfg', 'test_cfg', 'visualizer', 'log_processor', 'data_preprocessor',
    'model_wrapper_cfg',
)  # fmt: skip
#: MMEngine's constructor of optimizers reads these keys of ``paramwise_cfg`` and ignores others.
DEFAULT_CONSTRUCTOR = 'DefaultOptimWrapperConstructor'
PARAMWISE = (
    'custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult',
    'dwconv_decay_mult', 'dcn_offset_lr_mult', 'bypass_duplicate',
)  # fmt: skip
#: Names under which the builders of MMEngine and mmcv keep the type that they look up, and what
#: they found.
_SOUGHT = ('obj_type', 'scheduler_type', 'layer_type', 'padding_type')
_FOUND = ('obj_cls', 'scheduler_cls', 'norm_layer', 'conv_layer', 'padding_layer', 'plugin_layer')


@contextmanager
def building(cfg: Mapping[str, Any], where: str) -> Iterator[None]:
    """Turn errors of the block into a `ConfigError`; a `ConfigError` keeps its fields.

    Args:
        cfg: Config of the run, in which the key is looked up.
        where: The key if it is not found there.
    """
    try:
        yield
    except ConfigError as error:
        first = _unwind(error)[0]
        if first is error:
            raise
        raise first from error
    except MISTAKES as error:
        raise explain(error, cfg, where) from error


@dataclass(frozen=True)
class Step:
    """One call of a builder: its config, the name that it looked up, where, and what it found."""

    config: Any
    name: Any = None
    registry: Registry | None = None
    found: Any = None


def explain(error: BaseException, cfg: Mapping[str, Any], where: str) -> ConfigError:
    """Say what was being built when ``error`` was raised, and what is wrong with it."""
    error, steps, last = _unwind(error)
    key, node = _key_of(cfg, steps) or (where, {})
    if isinstance(error, KeyError) and isinstance(last.name, str) and last.found is None:
        key = f'{key}.type' if node.get('type') == last.name else key
        return unknown(key, last.name, last.registry)
    if 'must contain the key "type"' in str(error):
        return ConfigError(key=key, got=last.config, expected='dict(type=...)')
    built = next((step for step in reversed(steps) if step.found is not None), None)
    if built is None:
        return _fault(error, key, '', given=node)
    called = built.name if isinstance(built.name, str) else built.found.__name__
    return _fault(error, key, called, built.found, node)


def unknown(key: str, name: str, registry: Registry | None) -> ConfigError:
    """Say that ``registry`` has no ``name``, with the nearest names."""
    problem = 'no such name'
    if registry is not None:
        near = nearest(name, _names(registry))
        problem = f'no such {registry.name} in the registry of {registry.scope}; {near}'
    return ConfigError(problem, key=key, got=name)


def _fault(
    error: BaseException,
    key: str,
    raiser: str,
    built: Any = None,
    given: Mapping[str, Any] | None = None,
) -> ConfigError:
    """Describe the error in terms of the config.

    Args:
        error: Of a library.
        key: In the config.
        raiser: The class that raised it, and when; empty if that is not known.
        built: The class, if its arguments are meant.
        given: Its config; short arguments appear in the message.
    """
    start, text = f'{raiser}: ' if raiser else '', str(error).strip()
    argument = re.search(r"unexpected keyword argument '(\w+)'", text)
    if argument and built is not None:
        near = nearest(argument[1], arguments(built))
        return ConfigError(f'{start}unknown argument {argument[1]!r}; {near}', key=key)
    missing = re.search(r'missing \d+ required (?:positional|keyword-only) arguments?: (.*)', text)
    if missing:
        return ConfigError(f'{start}missing {missing[1]}', key=key)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])
        text = text if ' ' in text else f'no key {error.args[0]!r}'
    short = {
        name: value
        for name, value in (given or {}).items()
        if name != 'type' and len(repr(value)) <= 40
    }
    problem = f'{start}{type(error).__name__}: {_shortened(text)}'
    return ConfigError(problem, key=key, got=short) if short else ConfigError(problem, key=key)


def _unwind(error: BaseException) -> tuple[BaseException, list[Step], Step]:
    """The first error, the builders that were at work, outermost first, and its place.

    Some versions of MMEngine raise each error again with the name of the class before it.
    """
    steps: list[Step] = []
    while True:
        trace = error.__traceback__
        while trace is not None:
            last, trace = _step(trace.tb_frame), trace.tb_next
            if last.config is not None:
                steps.append(last)
        first = rewrapped(error)
        if first is None:
            return error, steps, last
        error = first


def _step(frame: FrameType) -> Step:
    """Return what a builder's frame was building; empty for any other frame."""
    found, function = frame.f_locals, frame.f_code.co_name
    if function == 'build_dataloader':
        return Step(found.get('dataloader'), found=DataLoader)
    name = next((found[key] for key in _SOUGHT if key in found), None)
    registry = found.get('registry')
    if not isinstance(registry, Registry) or (name is None and function != 'build_from_cfg'):
        return Step(None)
    built = next((found[key] for key in _FOUND if found.get(key) is not None), None)
    return Step(found.get('cfg'), name, registry, built)


def _names(registry: Registry) -> set[str]:
    """Names that can be written there: of the scope and its parents, others with their scope."""
    names = set(registry.module_dict)
    while registry.parent is not None:
        registry = registry.parent
        names |= set(registry.module_dict)
    for scope, child in registry.children.items():
        if scope == 'kdmm':
            child.import_from_location()
        names |= {f'{scope}.{name}' for name in child.module_dict}
    return names


def arguments(built: Any) -> set[str]:
    """The named arguments of a class, those of its bases included where it hands them on."""
    names: set[str] = set()
    for function in getattr(built, '__mro__', (built,)):
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # written in C
            break
        names |= {p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
    return names


def _key_of(cfg: Mapping[str, Any], steps: list[Step]) -> tuple[str, Mapping[str, Any]] | None:
    """The innermost of what was being built that stands in the config: its key, and the dict."""
    parts = [(key, cfg[key]) for key in BUILT if cfg.get(key)]
    nodes = [found for key, part in parts for found in _dicts(part, key)]
    for step in reversed(steps):
        wanted = step.config
        if is_wrapper(step.name) and isinstance(cfg.get('kd'), Mapping):
            return 'kd', cfg['kd']
        if not isinstance(wanted, Mapping):
            continue
        if step.found is DataLoader:
            same = [found for found in parts if found[0].endswith('_dataloader')]
        elif 'type' in wanted:
            same = [found for found in nodes if found[1].get('type') == wanted['type']]
        else:
            same = [found for found in nodes if found[1] == wanted]
        if same:
            return max(same, key=lambda found: _shared(found[1], wanted))
    return None


def _dicts(node: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All dicts below ``node``, outermost first, with their keys."""
    if isinstance(node, Mapping):
        yield key, node
        for name, child in node.items():
            yield from _dicts(child, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _dicts(child, f'{key}.{index}')


def _shared(node: Mapping[str, Any], wanted: Mapping[str, Any]) -> int:
    """Count entries of ``node`` that were given to the builder; it may have added others."""
    return sum(name in wanted and repr(wanted[name]) == repr(node[name]) for name in node)


def _shortened(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f'{text[:most]} ...'


def _checked(name: str, where: str) -> Callable[..., Any]:
    """A method of `CheckedRunner`: that of the next class, which may be a user's, in `building`."""

    @functools.wraps(getattr(BaseRunner, name))
    def checked(self: BaseRunner, *args: Any, **kwargs: Any) -> Any:
        with building(self.cfg, where):
            return getattr(super(CheckedRunner, self), name)(*args, **kwargs)

    return checked


@contextmanager
def first_step(runner: BaseRunner) -> Iterator[None]:
    """Turn errors of the libraries in the first step into a `ConfigError`.

    Training, validation and test each have a first step. Errors that passed through other code than
    the libraries', and those of communication and memory, are left alone.
    """
    try:
        yield
    except ConfigError:
        raise
    except (*MISTAKES, RuntimeError) as error:
        described = _describe_first_step(error, runner)
        if described is None:
            raise
        raise described from error


def _describe_first_step(error: BaseException, runner: BaseRunner) -> ConfigError | None:
    """Describe an error and its place; None if it is not to be translated."""
    text = str(error)
    alone = 'Expected more than 1 value per channel' in text
    frames = list(_frames(error.__traceback__))[1:]  # the first has the Runner in it
    names = [frame.f_globals.get('__name__', '') for frame in frames]
    stage = next((stage for stage in STAGES if f'{stage.title()}Loop' in _loops(frames)), None)
    if alone and stage == 'train':
        path, kind = _place(frames, runner)
        return ConfigError(
            f'a batch of one image, {f"{path} ({kind})" if path else "BatchNorm"} has one value '
            'per channel and no variance',
            key='train_dataloader',
            fix='If it is the last batch of an epoch, set drop_last=True; else raise batch_size '
            '(of each process).',
        )
    if stage is None or _has_stepped(runner, stage) or not all(map(_is_library, names)):
        return None
    if 'Original Traceback' in text:  # of a data loader's worker
        files = re.findall(r'File "(.*?)"', text)
        if any('site-packages' not in file and 'lib/python' not in file for file in files):
            return None
        return ConfigError(_shortened(text.strip().splitlines()[-1]), key=f'{stage}_dataloader')
    if 'out of memory' in text or any(name.startswith('torch.distributed') for name in names):
        return None
    path, kind = _place(frames, runner)
    when = f'{kind} in the first step of {stage}'.strip()
    return _fault(error, path or f'{stage}_dataloader, {stage}_evaluator', when)


#: Stages of a run, the innermost loop first: validation runs inside of training.
STAGES = ('val', 'test', 'train')
_LIBRARIES = {
    'contextlib', 'cv2', 'mmcv', 'mmdet', 'mmengine', 'mmpose', 'mmpretrain', 'mmseg', 'numpy',
    'pycocotools', 'torch', 'torchvision', 'xtcocotools',
}  # fmt: skip


#: Base classes outside the model, and their names in messages.
_PARTS = dict(BaseTransform='pipeline', BaseDataset='dataset', BaseMetric='metric')


def _is_library(module: str) -> bool:
    return module.partition('.')[0] in _LIBRARIES or module.startswith('kdmm.engine.')


def _frames(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _loops(frames: list[FrameType]) -> str:
    """Names of the loops that ran."""
    owners = [frame.f_locals.get('self') for frame in frames]
    return ' '.join(type(owner).__name__ for owner in owners if isinstance(owner, BaseLoop))


def _has_stepped(runner: BaseRunner, stage: str) -> bool:
    scalars = runner.message_hub.log_scalars
    if stage == 'train':
        return 'train/loss' in scalars
    metrics = (name for name in scalars if not name.endswith(('/time', '/data_time')))
    return stage == 'val' and any(name.startswith('val/') for name in metrics)


def _place(frames: list[FrameType], runner: BaseRunner) -> tuple[str, str]:
    """The part of the model, the transform, the data set or the metric that raised: key, class."""
    paths = {id(part): path for path, part in runner.model.named_modules()}
    for frame in reversed(frames):
        owner = frame.f_locals.get('self')
        if isinstance(owner, nn.Module) and id(owner) in paths:
            return '.'.join(filter(None, ('model', paths[id(owner)]))), type(owner).__name__
        for base in type(owner).__mro__:
            if base.__name__ in _PARTS:
                return _PARTS[base.__name__], type(owner).__name__
    return '', ''


class CheckedRunner(BaseRunner):
    """MMEngine's Runner; a mistake in what it builds from its config is a `ConfigError`."""

    @classmethod
    def from_cfg(cls, cfg: Any) -> BaseRunner:
        """As the base.

        Raises:
            ConfigError: For what cannot be built.
        """
        with building(cfg, 'config'):
            return super().from_cfg(cfg)

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """As the base, after a check of the optimizer and ``clip_grad``."""
        with building(self.cfg, 'optim_wrapper'):
            if isinstance(optim_wrapper, Mapping):
                _check_optim_wrapper(optim_wrapper, bool(self.cfg.get('param_scheduler')))
            return super().build_optim_wrapper(optim_wrapper)

    def _maybe_compile(self, target: str) -> None:
        try:
            super()._maybe_compile(target)
        except (*MISTAKES, RuntimeError) as error:
            raise _fault(error, 'compile', '') from error

    setup_env = _checked('setup_env', 'env_cfg')
    set_randomness = _checked('set_randomness', 'randomness')
    build_model = _checked('build_model', 'model')
    register_hooks = _checked('register_hooks', 'default_hooks, custom_hooks')
    build_visualizer = _checked('build_visualizer', 'visualizer')
    build_log_processor = _checked('build_log_processor', 'log_processor')
    build_train_loop = _checked('build_train_loop', 'train_cfg, train_dataloader')
    build_val_loop = _checked('build_val_loop', 'val_cfg, val_dataloader, val_evaluator')
    build_test_loop = _checked('build_test_loop', 'test_cfg, test_dataloader, test_evaluator')
    build_param_scheduler = _checked('build_param_scheduler', 'param_scheduler')
    scale_lr = _checked('scale_lr', 'auto_scale_lr')


def _check_optim_wrapper(config: Mapping[str, Any], scheduled: bool) -> None:
    """The optimizer must be known and move, and ``clip_grad`` be what torch's function takes."""
    if not config:
        raise ConfigError(
            key='optim_wrapper', got={}, expected='dict(optimizer=dict(type=..., lr=...))'
        )
    optimizer, clip = config.get('optimizer'), config.get('clip_grad')
    kind = optimizer.get('type') if isinstance(optimizer, Mapping) else None
    if config.get('type') == 'AmpOptimWrapper' and not _accelerated():
        raise ConfigError(
            'it (--amp) trains on a GPU, and torch sees none',
            key='optim_wrapper.type',
            got='AmpOptimWrapper',
            fix='Leave --amp out, or take OptimWrapper, to train in float32.',
        )
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise unknown('optim_wrapper.optimizer.type', kind, OPTIMIZERS)
    if isinstance(optimizer, Mapping) and optimizer.get('lr') == 0 and not scheduled:
        raise ConfigError(
            'no param_scheduler changes it, and nothing would be trained',
            key='optim_wrapper.optimizer.lr',
            got=optimizer['lr'],
        )
    if config.get('constructor', DEFAULT_CONSTRUCTOR) == DEFAULT_CONSTRUCTOR:
        given = config.get('paramwise_cfg')
        refuse_unknown('optim_wrapper.paramwise_cfg', given or {}, PARAMWISE)
    if isinstance(clip, Mapping):
        way = clip_grad_value_ if clip.get('type') == 'value' else clip_grad_norm_
        known = {'type', *inspect.signature(way).parameters} - {'parameters'}
        refuse_unknown('optim_wrapper.clip_grad', clip, known)


def _accelerated() -> bool:
    """Return True if MMEngine's AMP wrapper finds a device that it supports."""
    return is_cuda_available() or is_npu_available() or is_mlu_available() or is_musa_available()
