"""One form of one case, one kind of training step or one data pipeline, in a process of its own.

The parent writes a JSON object as the only argument and reads one from the last line.
"""

import json
import sys
import types
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
MOST = 50  # timed calls


def bare_packages(*names: str) -> None:
    """Let modules below ``names`` be imported without the packages' own ``__init__``.

    ``import kdmm`` brings hundreds of MiB of base libraries that no loss needs; they would be in
    every figure for the whole process.
    """
    for name in names:
        module = types.ModuleType(name)
        module.__path__ = [str(ROOT / Path(*name.split('.')))]
        sys.modules[name] = module


def on_device(value: Any, device: str, dtype: torch.dtype) -> Any:
    """Move tensors, however nested; floating point ones to ``dtype``."""
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else None)
    if isinstance(value, list):
        return [on_device(item, device, dtype) for item in value]
    return value.to(device) if hasattr(value, 'enqueue') else value


class Call:
    """A form with its inputs, forward and backward."""

    def __init__(self, job: dict[str, Any], shape: dict[str, int]) -> None:
        from .cases import CASES

        case = CASES[job['case']]
        self.form = case.forms()[job['form']]
        self.after = case.after.get(job['form'])
        self.device, self.dtype = job['device'], getattr(torch, job['dtype'])
        given = case.inputs(shape, torch.Generator().manual_seed(0))
        if job['form'] in case.prepare:
            given.update(case.prepare[job['form']](shape))
        self.given = {k: on_device(v, self.device, self.dtype) for k, v in given.items()}
        self.leaf: Any = self.given.get('student')
        if isinstance(self.leaf, Tensor):
            self.leaf.requires_grad_()

    def __call__(self) -> dict[str, Tensor]:
        """Everything in which the forms must agree; nothing for the products alone."""
        half = self.dtype in (torch.float16, torch.bfloat16)
        kind = torch.device(self.device).type
        with torch.autocast(kind, self.dtype) if half else nullcontext():
            result = self.form(**self.given)
        if isinstance(result, dict):
            return result
        if result is None:
            return {}
        (gradient,) = torch.autograd.grad(result, self.leaf)
        if self.after is not None:
            self.after(**self.given)
        return dict(loss=result.detach(), gradient=gradient)


def fingerprint(value: Tensor) -> tuple[float, float]:
    """Norm of a result, and its product with a fixed random tensor (a number: itself, twice)."""
    value = value.detach().double().cpu()
    if value.ndim == 0:
        return value.item(), value.item()
    probe = torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).double()
    return value.norm().item(), (value * probe).sum().item()


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Times in seconds, memory in MiB, and what the results were."""
    from kdmm.engine.resources import ResourceMonitor

    Call(job, job['warm'])()  # loads libraries, starts threads
    call = Call(job, job['shape'])
    monitor = ResourceMonitor(job['device'])
    if monitor.device.type == 'cuda':  # kernels are compiled and chosen for this shape
        call()
    times: list[float] = []
    with monitor.measure() as first:
        found = call()
    values = {key: fingerprint(value) for key, value in found.items()}
    del found
    times.append(first.seconds)
    while sum(times) < job['seconds'] and len(times) < MOST:
        with monitor.measure() as again:
            call()
        times.append(again.seconds)
    memory = dict(peak_mib=first.peak / MIB, added_mib=first.added / MIB)
    return dict(times=times, values=values, memory_exact=monitor.exact, **memory)


def main() -> None:
    """Run the job of the command line."""
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job['threads'])
    if job.get('tf32'):
        torch.set_float32_matmul_precision('high')
    if job.get('kind') == 'pipeline':
        from .pipeline import measure_pipeline

        result = measure_pipeline(job)
    elif job.get('kind') == 'taps':
        from .taps import measure_taps

        result = measure_taps(job)
    elif job.get('kind') == 'phase':
        from .phase import measure_phase

        result = measure_phase(job)
    elif 'config' in job:
        from .steps import measure_steps

        result = measure_steps(job)
    else:
        bare_packages('kdmm', 'kdmm.engine')
        result = measure(job)
    print(json.dumps(result))


if __name__ == '__main__':
    main()
