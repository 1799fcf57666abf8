"""Cost of L-MCL's phases beside an ordinary iteration: time of both forms, and their memory."""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from kdmm.utils.tables import for_stream

from .figures import NOTE, marked, number, ratio
from .run import alternate

HEAD = ['phase', 'ms', 'iterations', 'added MiB', 'of unrolled']
#: Two networks of one kind on CIFAR's images, with the paper's branches and heads.
NETWORKS: dict[str, dict[str, Any]] = {
    'ResNet-8, batch 64': dict(depth=8, batch=64),
    'ResNet-32, batch 128': dict(depth=32, batch=128),
}
ITERATION, FORMS = 'iteration', ('adjoint', 'unrolled')


def measure(names: Sequence[str], args: Namespace) -> Iterator[dict[str, Any]]:
    """One entry for each of `NETWORKS`, as it is written to JSON."""
    for name in list(NETWORKS)[: 1 if args.quick else None]:
        job = dict(
            kind='phase', network=name, threads=args.threads, device=args.device, quick=args.quick
        )
        jobs = {form: dict(job, form=form) for form in (ITERATION, *FORMS)}
        yield dict(network=name, forms=alternate(jobs, args.rounds))


def render(result: dict[str, Any]) -> str:
    """One pair of networks as a table."""
    forms = result['forms']
    rows = []
    for name, found in forms.items():
        if 'failed' in found:
            rows.append([name, f'failed: {found["failed"]}', '-', '-', '-'])
            continue
        rows.append(
            [
                marked(name, found),
                number(found['median_s'] * 1e3, 1),
                number(ratio(found, forms[ITERATION], 'median_s')),
                number(found['added_mib'], 0),
                number(ratio(found, forms['unrolled'], 'added_mib', 1.0)),
            ]
        )
    table = for_stream([result['network'], *HEAD[1:]], rows, numbers=True)
    disturbed = any(found.get('disturbed') for found in forms.values())
    return f'{table}\n{NOTE}\n' if disturbed else f'{table}\n'


def sound(result: dict[str, Any]) -> bool:
    """Return True if all ran."""
    return not any('failed' in found for found in result['forms'].values())


def measure_phase(job: dict[str, Any]) -> dict[str, Any]:
    """Times in seconds and memory in MiB of iterations, or of phases of one form."""
    from kdmm.engine.resources import MIB, ResourceMonitor

    model, optimizer, batch = _cohort(job)
    form, monitor = job['form'], ResourceMonitor(job['device'])

    def iterate() -> None:
        optimizer.zero_grad()
        losses = model(*batch, mode='loss')
        torch.stack([x for name, x in losses.items() if 'loss' in name]).sum().backward()
        optimizer.step()

    def phase() -> None:
        model.kd.phase(model.kd.batch, [optimizer])

    run: Callable[[], None] = iterate if form == ITERATION else phase
    iterate()
    optimizer.zero_grad()
    if form != ITERATION and monitor.device.type == 'cuda':
        run()  # kernels are chosen
    times, peak, added = [], 0.0, 0.0
    for _ in range(1 if job['quick'] else 3):
        with monitor.measure() as taken:
            run()
        times.append(taken.seconds)
        peak, added = max(peak, taken.peak), max(added, taken.added)
    return dict(times=times, peak_mib=peak / MIB, added_mib=added / MIB, memory_exact=monitor.exact)


def _cohort(job: dict[str, Any]) -> tuple[Any, torch.optim.Optimizer, list[Any]]:
    """Two networks in train mode, SGD as in the paper, and a batch of images."""
    from mmengine.registry import MODELS
    from mmpretrain.structures import DataSample

    import kdmm  # noqa: F401  (registers everything)

    network = NETWORKS[job['network']]
    size = 4 if job['quick'] else network['batch']
    torch.manual_seed(0)
    student = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='kdmm.CIFARResNet', depth=network['depth'], block='basic'),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=100, in_channels=64),
    )
    weight = dict(vcl=0.1, soft_vcl=1.0, icl=0.1, soft_icl=1.0)
    losses = dict(
        layers=dict(type='LMCLLoss', on='stages', weight=weight),
        mix=dict(type='StageEnsembleLoss', on=['stages', 'stage_logits']),
    )
    form = 'adjoint' if job['form'] == ITERATION else job['form']
    model: nn.Module = MODELS.build(
        dict(
            type='kdmm.LMCL',
            student=student,
            branches=dict(stages='inner'),
            losses=losses,
            meta=dict(form=form),
        )
    )
    model = model.to(job['device']).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    images = torch.randn(size, 3, 32, 32, device=job['device'])
    samples = [DataSample().set_gt_label(i // 2 % 100).to(job['device']) for i in range(size)]
    return model, optimizer, [images, samples]
