"""Weight files that are there complete, or not at all."""

import io
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdmm.errors import ConfigError
from kdmm.utils import files


def tidy(state: Mapping[str, Tensor]) -> 'OrderedDict[str, Tensor]':
    """Contiguous copies on the CPU: no views, no shared storage, no gradients."""
    return OrderedDict(
        (key, value.detach().cpu().clone(memory_format=torch.contiguous_format))
        for key, value in state.items()
    )


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
            raise ConfigError(f'--out: {self.target!r} cannot be written ({error})') from error

    def read(self) -> Any:
        """What is in the file now."""
        return torch.load(self.path, map_location='cpu', weights_only=True)
