"""mmcv's operators through torchvision, for an mmcv without compiled ones.

An importer at the end of ``sys.meta_path`` answers for ``mmcv._ext`` when nobody else does, so
compiled operators win and nothing is imported before mmcv asks. ``nms`` and ``roi_align`` keep the
calling conventions of mmcv's C++ functions; every other operator raises when it is called.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor

NAME = 'mmcv._ext'

HELP = (
    'mmcv is installed without compiled operators, and of them kdmm serves only nms and roi_align '
    '(through torchvision). To build mmcv with its operators (torch and a C++ compiler present):\n'
    '  pip uninstall -y onedl-mmcv\n'
    '  pip install --no-build-isolation --no-cache-dir --no-binary onedl-mmcv onedl-mmcv==2.3.6\n'
    'torch >= 2.14 needs C++20: unpack the source distribution, replace -std=c++17 by -std=c++20 '
    'in its setup.py (open-mmlab/mmcv issue 3341) and install that folder with the same options.'
)


class OperatorNotCompiledError(NotImplementedError):
    """An mmcv operator was called that is neither compiled nor served by kdmm."""

    def __init__(self, operator: str) -> None:
        super().__init__(f'the mmcv operator {operator!r} is not available: {HELP}')


def install_operators() -> None:
    """Provide ``mmcv._ext`` from now on, unless mmcv brings a compiled one."""
    if not any(isinstance(finder, _OperatorFinder) for finder in sys.meta_path):
        sys.meta_path.append(_OperatorFinder())


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the boxes that non-maximum suppression keeps, best score first.

    Args:
        boxes: (N, 4), x1 y1 x2 y2.
        scores: (N,).
        iou_threshold: a box is dropped where its IoU with a kept one is above this.
        offset: 0 or 1; widths and heights are ``x2 - x1 + offset``.
    """
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, scores.dtype), torch.float32)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    # rounded like the IoUs it is compared with, so that a box exactly at the threshold is kept
    threshold = torch.tensor(iou_threshold, dtype=dtype).item()
    return _torchvision().nms(boxes, scores, threshold)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the pooled regions into ``output`` (R, C, H, W); ``rois`` are (R, 5)."""
    _refuse_max(pool_mode)
    dtype = torch.promote_types(input.dtype, torch.float32)
    size = (spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned)
    output.copy_(_torchvision().roi_align(input.to(dtype), rois.to(dtype), *size))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of ``roi_align_forward`` to ``grad_input`` (B, C, H, W)."""
    _refuse_max(pool_mode)
    dtype = torch.promote_types(grad_output.dtype, torch.float32)
    size = (spatial_scale, aligned_height, aligned_width)
    backward = _torchvision()._roi_align_backward
    grad_input.add_(
        backward(
            grad_output.to(dtype), rois.to(dtype), *size, *grad_input.shape, sampling_ratio, aligned
        )
    )


def get_compiler_version() -> str:
    """Return the text of mmcv's environment report."""
    return 'none (operators served by kdmm)'


def get_compiling_cuda_version() -> str:
    """Return the text of mmcv's environment report."""
    return 'not available'


SERVED: tuple[Callable[..., Any], ...] = (
    nms,
    roi_align_forward,
    roi_align_backward,
    get_compiler_version,
    get_compiling_cuda_version,
)


def _torchvision() -> Any:
    import torchvision  # noqa: F401  registers the operators; late, it is slow to import

    return torch.ops.torchvision


def _refuse_max(pool_mode: int) -> None:
    if pool_mode == 0:
        raise OperatorNotCompiledError("roi_align(pool_mode='max')")


class _Operators(ModuleType):
    """The module ``mmcv._ext``: every name is a function, those in SERVED do something."""

    def __init__(self, name: str) -> None:
        super().__init__(name, __doc__)
        for function in SERVED:
            setattr(self, function.__name__, function)

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith('__'):
            raise AttributeError(name)

        def refuse(*args: Any, **kwargs: Any) -> NoReturn:
            raise OperatorNotCompiledError(name)

        refuse.__name__ = name
        return refuse


class _OperatorFinder(MetaPathFinder, Loader):
    """Finds ``mmcv._ext`` after every other importer has passed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Module spec of ``mmcv._ext``; None for any other module."""
        return ModuleSpec(NAME, self) if fullname == NAME else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module that serves the operators."""
        return _Operators(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the module is complete when it is made."""
