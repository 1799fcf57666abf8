"""Whether a network that is about to be trained holds the file that it was to start from.

MMEngine loads leniently: of a wrong prefix, another depth or a lacking key there is a warning in
the log, and a network that is partly random.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from kdmm.distillers.weights import read_checkpoint, weights_only
from kdmm.errors import ConfigError
from kdmm.transfer.architecture import below
from kdmm.transfer.checkpoint import starts, tensors_of
from kdmm.transfer.checks import check_values
from kdmm.transfer.declared import declared
from kdmm.transfer.families import family_of
from kdmm.transfer.inputs import Normalisation
from kdmm.transfer.mapping import KeyMap, listed, map_keys


@dataclass(frozen=True)
class Pretrained:
    """A file that fits a network.

    Attributes:
        where: The network's name in the config, and the file's.
        tensors: The file's, under the network's names.
        mapping: Keys of the network to those.
        inputs: What the file says of its images.
    """

    where: str
    tensors: Mapping[str, Tensor]
    mapping: KeyMap
    inputs: Normalisation | None

    def check_values(self, net: nn.Module) -> None:
        """Compare every parameter and buffer, bit by bit.

        Raises:
            ConfigError: Lists those that are not the file's.
        """
        wanted = self.mapping.complete(self.tensors)
        other = [
            key
            for key, value in net.state_dict().items()
            if not torch.equal(wanted[key].to(value.dtype), value.cpu())
        ]
        if other:
            raise ConfigError(
                f'{self.where} was not loaded: {len(other)} of {len(wanted)} weights differ: '
                f'{listed(other)}'
            )

    def __str__(self) -> str:
        images = self.inputs or 'it does not say how its images were normalised'
        return f'{self.where}: all {len(self.mapping.complete(self.tensors))} weights; {images}'


def fitting(
    net: nn.Module,
    init: Mapping[str, Any],
    images: Normalisation | None,
    name: str,
    library: str,
    unsafe: bool = False,
) -> Pretrained:
    """The file of ``init``, an ``init_cfg`` of type Pretrained.

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
    where = f'{name}.init_cfg {file!r}'
    content = _read(file, where, unsafe)
    everything = tensors_of(content, where)
    tensors, family = below(everything, prefix), family_of(net)
    wanted = net.state_dict()
    if not set(tensors) & set(wanted):
        raise ConfigError(
            f'{where}: none of the {len(wanted)} weights of the network under '
            f'prefix={prefix or None!r}; the keys of the file start with {starts(everything)}. Set '
            'prefix, or convert the file with tools/convert.py'
        )
    mapping = map_keys(tensors, wanted, family, f'{where} does not fill the network')
    check_values(mapping.apply(tensors), where)
    meta = content.get('meta')
    says = declared(meta if isinstance(meta, Mapping) else {}, prefix, library)
    _check_traits(says.traits, family.traits(net), where)
    if says.inputs and images and not says.inputs.same_as(images):
        raise ConfigError(
            f'{where} was trained on {says.inputs}; model.data_preprocessor prepares {images}. Set '
            'it to the same, or the features are not those that were learned'
        )
    return Pretrained(where, tensors, mapping, says.inputs)


def _check_traits(theirs: Mapping[str, Any], ours: Mapping[str, Any], where: str) -> None:
    for key in theirs:
        if key in ours and theirs[key] != ours[key]:
            raise ConfigError(
                f'{where} was trained with {key}={theirs[key]!r}, the network has {ours[key]!r}: '
                'the same weights give other features'
            )


def _read(file: str, where: str, unsafe: bool) -> Mapping[str, Any]:
    """Weights only; an address of a model zoo is left to MMEngine, which keeps what it fetches."""
    if '://' in file and not file.startswith(('http://', 'https://')):
        try:
            with weights_only(unsafe):
                return CheckpointLoader.load_checkpoint(file, map_location='cpu', logger='silent')
        except (OSError, ImportError, KeyError, ValueError, RuntimeError) as error:
            raise ConfigError(f'{where}: cannot be loaded ({error})') from error
    return read_checkpoint(file, unsafe=unsafe, what=where)
