"""A backbone that can be built, and loaded as its library loads one."""

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from kdmm.distillers.weights import weights_only
from kdmm.errors import ConfigError
from kdmm.transfer import model_names
from kdmm.transfer.recognise import recognise
from kdmm.transfer.registered import ZOO, parameters_of, quiet


@dataclass(frozen=True)
class Architecture:
    """A network by its class and arguments.

    Attributes:
        library: Default scope of an OpenMMLab config; or ``torchvision``, ``timm``.
        kind: A class; of torchvision and timm a model name.
        origin: Where that was read, for messages.
        args: Arguments of the class, without what loads weights.
        inputs: The config's data preprocessor, if it has one.
        config: The model section that the backbone was found in.
        path: Where in it, which is also the prefix of its keys.
    """

    library: str
    kind: Any
    origin: str
    args: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    path: str = 'backbone.'

    @property
    def by_init_cfg(self) -> bool:
        """Whether ``init_cfg=dict(type='Pretrained', ...)`` loads it."""
        if self.library in ZOO:
            return False
        return issubclass(self.kind, BaseModule) and 'init_cfg' in parameters_of(self.kind)

    def title(self, state: Mapping[str, Tensor]) -> str:
        """Library and network in short; ``state`` are its weights."""
        found = recognise(state)
        kind = self.kind if self.library in ZOO else self.kind.__name__
        return f'{self.library} {kind if found is None or self.library in ZOO else found.title}'

    def build(self, **more: Any) -> nn.Module:
        """The network with random weights.

        Raises:
            ConfigError: If its class refuses the arguments.
        """
        with own_randomness(), quiet(), weights_only():
            if self.library in ZOO:
                return model_names.build(self.library, self.kind)
            args = ConfigDict(copy.deepcopy({**self.args, **more}))
            try:
                net = MODELS.build(ConfigDict(args, type=self.kind, _scope_=self.library))
            except Exception as error:  # whatever a class thinks of its arguments
                reason = f'{type(error).__name__}: {error}'
                raise ConfigError(
                    f'{self.origin}: {self.kind.__name__} cannot be built ({reason})'
                ) from error
            if not isinstance(net, nn.Module):
                raise ConfigError(f'{self.origin}: {self.kind.__name__} is no network')
            return net

    def load(self, path: str, prefix: str = '') -> nn.Module:
        """The network with the weights of a file, read by the library's own means.

        Args:
            path: File.
            prefix: What stands before its keys in the file's ``state_dict``, if it has one.
        """
        if self.library in ZOO:
            with own_randomness():
                return model_names.load(self.library, self.kind, path)
        init = dict(type='Pretrained', checkpoint=path) | (dict(prefix=prefix) if prefix else {})
        net: Any = self.build(init_cfg=init) if self.by_init_cfg else self.build()
        with own_randomness(), quiet(), weights_only():
            if self.by_init_cfg:
                net.init_weights()
            else:
                net.load_state_dict(below(torch.load(path, weights_only=True), prefix))
        return net


def below(content: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    """The weights under a prefix, as MMEngine finds them."""
    state = content.get('state_dict', content)
    return {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}


@contextmanager
def own_randomness() -> Iterator[None]:
    """Nobody else's random numbers are consumed."""
    python = random.getstate()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
