"""Shared first part of all peers, computed once a step."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from kdmm.distillers.probe import Size, blank_pass
from kdmm.errors import ConfigError, nearest
from kdmm.taps import Taps


class Shared(nn.Module):
    """Placeholder in a peer for a module of the student that all peers share.

    It has no parameters of its own, so each is in the optimizer and in DDP's buckets once. Its
    ``state_dict`` is that of the student's module, so the peer's is that of a plain network.

    Args:
        path: Name of the student's module.
        trunk: Has the student, and the outputs of this step.
    """

    def __init__(self, path: str, trunk: 'Trunk') -> None:
        super().__init__()
        self.path, self.trunk = path, trunk

    @property
    def owner(self) -> nn.Module:
        """The student's module, which may have been replaced (SyncBN)."""
        return self.trunk.module(self.path)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the student's output of this step, or compute it."""
        outputs = self.trunk.outputs
        return outputs[self.path] if outputs else self.owner(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state of the student's module."""
        return self.owner.state_dict(*args, **kwargs)

    def _load_from_state_dict(
        self, state: Any, prefix: str, metadata: Any, strict: bool, missing: list[str], *_: Any
    ) -> None:
        for key, value in self.owner.state_dict(prefix=prefix).items():
            if key in state:
                value.copy_(state[key])
            elif strict:
                missing.append(key)


class Trunk:
    """Modules of the student that the peers share.

    Args:
        student: The network that owns them.
        paths: Names of all modules that run up to the branching point.

    Raises:
        ConfigError: If a path names no module; the nearest names are given.
    """

    def __init__(self, student: nn.Module, paths: Sequence[str]) -> None:
        if isinstance(paths, str):
            raise ConfigError(key='kd.trunk', got=paths, expected='a list of modules')
        modules = {path: module for path, module in student.named_modules() if path}
        for path in paths:
            if path not in modules:
                raise ConfigError(
                    f'the student has no such module; {nearest(str(path), modules)}',
                    key='kd.trunk',
                    got=path,
                )
        self.student, self.paths = student, tuple(paths)
        self.outputs: dict[str, Any] = {}

    def module(self, path: str) -> nn.Module:
        """Return a module of the student by its path."""
        return self.student.get_submodule(path)

    def scale_gradients(self, factor: float) -> None:
        """Multiply the gradients of all its parameters by ``factor`` in each backward pass."""
        found = [p for path in self.paths for p in self.module(path).parameters()]
        for parameter in found:
            if parameter.requires_grad:
                parameter.register_hook(lambda grad: factor * grad)

    def share_with(self, peer: nn.Module, size: Size | None) -> None:
        """Let ``peer`` use the student's modules in place of its own.

        Args:
            peer: The network.
            size: (H, W) of a blank image that finds the order of its modules, see `blank_pass`.

        Raises:
            ConfigError: If it has no such modules, or runs others before their end.
        """
        for path in self.paths:
            parent, _, name = path.rpartition('.')
            try:
                holder = peer.get_submodule(parent)
                holder.get_submodule(name)
            except AttributeError:
                raise ConfigError(
                    f'it is no module of the peer, a {type(peer).__name__}',
                    key='kd.trunk',
                    got=path,
                ) from None
            setattr(holder, name, Shared(path, self))
        if self.paths:
            self._refuse_gaps(peer, size)

    def _refuse_gaps(self, peer: nn.Module, size: Size | None) -> None:
        """Refuse peers with other modules before the trunk's end; nothing would train them."""
        early: list[str] = []
        with ExitStack() as hooks:
            for path, module in peer.named_modules():
                if module._parameters or module._buffers:
                    handle = module.register_forward_pre_hook(lambda *_, p=path: early.append(p))
                    hooks.callback(handle.remove)
            taps = Taps(peer, {path: f'{path}.out' for path in self.paths}, 'peer')
            blank_pass(peer, taps, size, self.student, stop_early=True)
        if early:
            raise ConfigError(
                f'{early[0]!r} runs before its end and is not shared',
                key='kd.trunk',
                fix='List all modules up to the branching point.',
            )

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Record the student's next outputs of the trunk; peers continue from them."""

        def keep(path: str) -> Any:
            return lambda module, args, output: self.outputs.update({path: output})

        with ExitStack() as hooks:
            for path in self.paths:
                handle = self.module(path).register_forward_hook(keep(path))
                hooks.callback(handle.remove)
            try:
                yield
            finally:
                self.outputs = {}

    @contextmanager
    def unchanged(self, inputs: Any) -> Iterator[None]:
        """Refuse peers that change the trunk's outputs or the inputs in place.

        Raises:
            ConfigError: If an activation outside the trunk works in place.
        """
        before = self._versions(inputs)
        yield
        if before != self._versions(inputs):
            raise ConfigError(
                'a module of a peer changes in place what all of them read (an activation such as '
                'relu)',
                key='kd.trunk',
                fix='List it, too, or let the trunk end behind it.',
            )

    def _versions(self, inputs: Any) -> list[int]:
        images = inputs if isinstance(inputs, list | tuple) else [inputs]
        read = [*images, *self.outputs.values()]
        return [x._version for x in read if isinstance(x, Tensor)]
