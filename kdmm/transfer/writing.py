"""Weight files, written atomically."""

import io
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdmm.errors import ConfigError
from kdmm.utils import files


def tidy(state: Mapping[str, Tensor]) -> 'OrderedDict[str, Tensor]':
    """Copy tensors to the CPU: contiguous, without shared storage or gradients."""
    return OrderedDict(
        (key, value.detach().cpu().clone(memory_format=torch.contiguous_format))
        for key, value in state.items()
    )


def check_out(out: str, force: bool, inputs: Sequence[Path]) -> None:
    """Refuse an output file that cannot or must not be written.

    Raises:
        ConfigError: If its folder is missing, it exists without ``force``, or it is an input.
    """
    path = Path(out)
    if not path.parent.is_dir():
        raise ConfigError('there is no such folder', key='--out', got=str(path.parent))
    if path.is_dir():
        raise ConfigError('this is a folder', key='--out', got=out, expected='a file')
    if any(path.resolve() == other.resolve() for other in inputs):
        raise ConfigError('this is the file to be read', key='--out', got=out)
    if path.exists() and not force:
        raise ConfigError('the file exists', key='--out', got=out, fix='Overwrite it with --force.')


class Draft(files.Draft):
    """A weight file under a temporary name until `commit`."""

    def save(self, content: Any) -> None:
        """Write ``content``, whose bytes depend on nothing else.

        Raises:
            ConfigError: If the system refuses.
        """
        buffer = io.BytesIO()  # torch.save puts the name of a file into it
        torch.save(content, buffer)
        try:
            self.write(buffer.getbuffer())
        except OSError as error:
            raise ConfigError(
                f'cannot be written ({error})', key='--out', got=self.target
            ) from error

    def read(self) -> Any:
        """Read the file as it is on the disk now."""
        return torch.load(self.path, map_location='cpu', weights_only=True)
