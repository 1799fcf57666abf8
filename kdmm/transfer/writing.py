"""Files that are there complete, or not at all."""

import io
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdmm.errors import ConfigError


def tidy(state: Mapping[str, Tensor]) -> 'OrderedDict[str, Tensor]':
    """Contiguous copies on the CPU: no views, no shared storage, no gradients."""
    return OrderedDict(
        (key, value.detach().cpu().clone(memory_format=torch.contiguous_format))
        for key, value in state.items()
    )


class Draft:
    """A file under a temporary name until `commit`; it is removed if that does not come.

    Args:
        out: Where the file is to be.
    """

    def __init__(self, out: str) -> None:
        self.out = out
        self.path = f'{out}.part'

    def __enter__(self) -> 'Draft':
        return self

    def __exit__(self, *_: object) -> None:
        Path(self.path).unlink(missing_ok=True)

    def write(self, content: Any) -> None:
        """Write ``content``, whose bytes depend on nothing else.

        Raises:
            ConfigError: If the system refuses.
        """
        buffer = io.BytesIO()  # torch.save puts the name of a file into it
        torch.save(content, buffer)
        try:
            with open(self.path, 'wb') as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(f'--out: {self.out!r} cannot be written ({error})') from error

    def read(self) -> Any:
        """What is in the file now."""
        return torch.load(self.path, map_location='cpu', weights_only=True)

    def commit(self) -> None:
        """Give the file its name."""
        os.replace(self.path, self.out)
