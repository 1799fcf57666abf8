"""Proof that an exported file computes what the network does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdmm.compat.packages import require
from kdmm.deploy.export import INPUT, Network
from kdmm.errors import ProofError

#: Largest difference, relative to the largest value of the output.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Reference:
    """A batch of images and the network's outputs for it, by name."""

    images: Tensor
    outputs: dict[str, Tensor]


@dataclass(frozen=True)
class Proof:
    """Result of a comparison.

    Attributes:
        runtime: The program that ran the file, with its version.
        batches: Sizes of the batches that were compared.
        error: Largest difference of any output, relative to its largest value.
    """

    runtime: str
    batches: tuple[int, ...]
    error: float

    def __str__(self) -> str:
        sizes = ' and '.join(map(str, self.batches))
        return (
            f'{self.runtime} at batch size{"s" * (len(self.batches) > 1)} {sizes}: max relative '
            f'error {self.error:.1e}, {TOLERANCE:.0e} allowed'
        )


@torch.no_grad()
def references_of(network: Network) -> list[Reference]:
    """Run the network on the batches with which its files are compared.

    Raises:
        ProofError: If an output is not finite, so that nothing can be compared.
    """
    found = []
    for size in network.compared:
        images = network.images(size)
        outputs = dict(zip(network.outputs, network.module(images), strict=True))
        for name, value in outputs.items():
            if not value.isfinite().all():
                raise ProofError(f'the output {name} of the network is not finite')
        found.append(Reference(images, outputs))
    return found


def prove_onnx(path: str | Path, references: Sequence[Reference]) -> Proof:
    """Compare the outputs of an ONNX file in onnxruntime, on the CPU, with the network's.

    Raises:
        ConfigError: If onnxruntime is not installed.
        ProofError: If it does not run the file, or an output differs.
    """
    runtime = require('onnxruntime', '--onnx')
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    runtime_name = f'onnxruntime {runtime.__version__}'
    try:
        session = runtime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    except Exception as error:  # its classes have no common one of their own
        raise ProofError(f'{runtime_name} does not load the file ({error})') from error
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> dict[str, Tensor]:
        found = session.run(names, {INPUT: images.numpy()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    return _compare(run, references, runtime_name)


def prove_torch_export(path: str | Path, references: Sequence[Reference]) -> Proof:
    """Compare the outputs of a file of `torch.export` with the network's.

    Raises:
        ProofError: If it does not run, or an output differs.
    """
    with open(path, 'rb') as file:
        module = torch.export.load(file).module()

    def run(images: Tensor) -> dict[str, Tensor]:
        return dict(zip(references[0].outputs, module(images), strict=True))

    return _compare(run, references, f'torch.export {torch.__version__}')


@torch.no_grad()
def _compare(
    run: Callable[[Tensor], dict[str, Tensor]], references: Sequence[Reference], runtime: str
) -> Proof:
    worst, sizes = 0.0, tuple(len(reference.images) for reference in references)
    for size, reference in zip(sizes, references, strict=True):
        try:
            found = run(reference.images)
        except Exception as error:  # of a runtime, whatever it is
            raise ProofError(f'{runtime} does not run a batch of {size} ({error})') from error
        if list(found) != list(reference.outputs):
            raise ProofError(
                f'{runtime}: outputs {", ".join(found)} for {", ".join(reference.outputs)}'
            )
        for name, ours in reference.outputs.items():
            worst = max(worst, _error(ours, found[name], f'{runtime}: the output {name}', size))
    return Proof(runtime, sizes, worst)


def _error(ours: Tensor, theirs: Tensor, where: str, size: int) -> float:
    """The largest difference relative to the largest value of ``ours``.

    Raises:
        ProofError: If it is above `TOLERANCE`, or the shapes differ.
    """
    if ours.shape != theirs.shape:
        raise ProofError(f'{where} is {tuple(theirs.shape)}, the network gives {tuple(ours.shape)}')
    if not ours.numel():
        return 0.0
    gap, largest = (ours - theirs).abs().max(), ours.abs().max()
    error = (gap / largest if largest else gap).nan_to_num(torch.inf).item()
    if error > TOLERANCE:
        raise ProofError(
            f'{where} differs by {error:.1e} of its largest value at a batch of {size}, '
            f'{TOLERANCE:.0e} is allowed'
        )
    return error
