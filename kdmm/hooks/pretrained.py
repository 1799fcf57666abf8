"""Check, before the first iteration, that a backbone starts from all weights of its file.

MMEngine loads leniently: of a wrong prefix, another depth or a lacking key there is a warning in
the log, and a network that is partly random.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from kdmm.checkpoints import read_checkpoint, unequal, weights_only
from kdmm.errors import ConfigError, about, listed
from kdmm.pretrained.architecture import from_text
from kdmm.pretrained.checkpoint import starts, tensors_of, transfer_entry, under_prefix
from kdmm.pretrained.families import family_of
from kdmm.pretrained.mapping import KeyMap, map_keys
from kdmm.registry import HOOKS
from kdmm.utils.models import pretrained_init, unwrapped
from kdmm.utils.normalization import DIGITS, Normalization


@HOOKS.register_module()
class PretrainedBackboneHook(Hook):
    """Compare the backbone with the file of its ``init_cfg`` before the first iteration.

    Every parameter and buffer must be the file's, and no weight of the file may be left over but a
    classifier's. Files of ``tools/convert.py`` and checkpoints of MMEngine also say how bottlenecks
    stride and how images were normalised; a network that does otherwise is refused. Nothing is
    compared where ``load_from`` or a resumed run replaced the weights.
    """

    def __init__(self) -> None:
        self.replaced = False

    def before_run(self, runner: Any) -> None:
        """Check the file before MMEngine reads it.

        Raises:
            ConfigError: If it does not fit the backbone or its images.
        """
        if not runner.cfg.get('load_from') and not runner.cfg.get('resume'):
            self._check(runner, values=False)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Note that the weights are another file's."""
        self.replaced = True

    def before_train(self, runner: Any) -> None:
        """Compare the weights.

        Raises:
            ConfigError: On all ranks, if one of them does not hold its file.
        """
        if not self.replaced:
            self._check(runner, values=True)

    def _check(self, runner: Any, values: bool) -> None:
        problem, done = None, ''
        try:
            done = self._compare(runner, values)
        except ConfigError as error:
            problem = error
        problems = [error for error in all_gather_object(problem) if error is not None]
        if problems:  # no rank may wait for another that has left
            raise problems[0]
        if values:
            runner.logger.info(done)

    def _compare(self, runner: Any, values: bool) -> str:
        net = getattr(unwrapped(runner.model), 'backbone', None)
        given: Any = getattr(net, 'init_cfg', None)
        init = pretrained_init(given)
        if not isinstance(net, nn.Module) or init is None or 'checkpoint' not in init:
            raise ConfigError(
                'for PretrainedBackboneHook',
                key='model.backbone.init_cfg',
                got=given,
                expected="dict(type='Pretrained', checkpoint=...)",
                fix='Without a file, leave the hook out.',
            )
        config = runner.cfg.get('model') or {}
        images = config.get('data_preprocessor') or runner.cfg.get('data_preprocessor')
        scope = runner.cfg.get('default_scope') or 'mmengine'
        unsafe = bool(runner.cfg.get('unsafe_checkpoint', False))
        found = fitting(net, init, Normalization.of_config(images), 'model.backbone', scope, unsafe)
        if values:
            found.check_values(net)
        return str(found)


@dataclass(frozen=True)
class Pretrained:
    """A file that fits a network.

    Attributes:
        name: The network's in the config.
        file: As in the config.
        tensors: The file's, under the network's names.
        mapping: Keys of the network to those.
        inputs: What the file says of its images.
    """

    name: str
    file: str
    tensors: Mapping[str, Tensor]
    mapping: KeyMap
    inputs: Normalization | None

    def check_values(self, net: nn.Module) -> None:
        """Compare every parameter and buffer, bit by bit.

        Raises:
            ConfigError: Lists those that are not the file's.
        """
        state, wanted = net.state_dict(), self.mapping.complete(self.tensors)
        other = unequal({key: wanted[key].to(value.dtype) for key, value in state.items()}, state)
        if other:
            raise ConfigError(
                f'it was not loaded: {len(other)} of {len(wanted)} weights differ: {listed(other)}',
                key=f'{self.name}.init_cfg.checkpoint',
                got=self.file,
            )

    def __str__(self) -> str:
        images = self.inputs or 'it does not say how its images were normalised'
        count = len(self.mapping.complete(self.tensors))
        return f'{self.name}.init_cfg {self.file!r}: all {count} weights; {images}'


def fitting(
    net: nn.Module,
    init: Mapping[str, Any],
    images: Normalization | None,
    name: str,
    library: str,
    unsafe: bool = False,
) -> Pretrained:
    """Read the file of ``init``, an ``init_cfg`` of type Pretrained, and check that it fits.

    Args:
        net: Network that loads it; its values do not matter yet.
        init: With ``checkpoint``, and ``prefix`` if it has one.
        images: What the network will see.
        name: How messages call the network.
        library: Its base library.
        unsafe: Allow a file that is more than weights, which can run code.

    Raises:
        ConfigError: If a weight is missing, left over or misshapen, if the network computes
            something else with the same weights, or sees images that are normalised otherwise.
    """
    file, prefix = str(init['checkpoint']), init.get('prefix') or ''
    prefix = f'{prefix.rstrip(".")}.' if prefix else ''
    with about(f'{name}.init_cfg.checkpoint', file):
        content = _read(file, unsafe)
        everything = tensors_of(content, '')
        tensors, family = under_prefix(everything, prefix), family_of(net)
        wanted = net.state_dict()
        if not set(tensors) & set(wanted):
            raise ConfigError(
                f'none of the {len(wanted)} weights of the network under '
                f'prefix={prefix or None!r}; the keys of the file start with {starts(everything)}',
                fix='Set prefix, or convert the file with tools/convert.py.',
            )
        mapping = map_keys(tensors, wanted, family, 'it does not fill the network')
        meta = content.get('meta')
        says = declared(meta if isinstance(meta, Mapping) else {}, prefix, library)
        _check_traits(says.traits, family.traits(net))
    if says.inputs and images and not says.inputs.same_as(images, DIGITS):
        raise ConfigError(
            f'{file!r} was trained on {says.inputs}; it prepares {images}, and the features would '
            'not be those that were learned',
            key='model.data_preprocessor',
            fix='Set it to the same.',
        )
    return Pretrained(name, file, tensors, mapping, says.inputs)


@dataclass(frozen=True)
class Declared:
    """The traits and images that a file states for its weights; empty where it states none.

    Attributes:
        traits: Name to value, of `Family.traits`.
        inputs: Normalization of the images that they were trained on.
    """

    traits: Mapping[str, Any]
    inputs: Normalization | None


def declared(meta: Mapping[str, Any], prefix: str, library: str) -> Declared:
    """Read it in a file of ours, or in the config of a checkpoint of MMEngine.

    Args:
        meta: The file's.
        prefix: What stands before its keys.
        library: Stands in for one that is not installed.
    """
    entry = transfer_entry(meta)
    if entry:
        accepted = entry.get('accepted') or ()
        traits = {key: value for key, value in entry['traits'].items() if key not in accepted}
        return Declared(traits, Normalization.of_config(entry.get('inputs')))
    text = meta.get('cfg') or meta.get('config')
    try:
        source = from_text(text, prefix, library) if text else None
        net = source.build() if source else None
    except ConfigError:  # a config that cannot be read without running it says nothing
        return Declared({}, None)
    if source is None or net is None:
        return Declared({}, None)
    return Declared(family_of(net).traits(net), Normalization.of_config(source.inputs))


def _check_traits(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    for key in theirs:
        if key in ours and theirs[key] != ours[key]:
            raise ConfigError(
                f'it was trained with {key}={theirs[key]!r}, the network has {ours[key]!r}: '
                'the same weights give other features'
            )


def _read(file: str, unsafe: bool) -> Mapping[str, Any]:
    """Read weights only; an address of a model zoo is left to MMEngine, which keeps its files."""
    if '://' in file and not file.startswith(('http://', 'https://')):
        try:
            with weights_only(unsafe):
                return CheckpointLoader.load_checkpoint(file, map_location='cpu', logger='silent')
        except (OSError, ImportError, KeyError, ValueError, RuntimeError) as error:
            raise ConfigError(f'it cannot be loaded ({error})') from error
    return read_checkpoint(file, unsafe=unsafe, what='')
