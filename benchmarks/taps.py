"""Cost of reading taps in a training step, beside hooks that only keep a reference."""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.utils.tables import for_stream

from .figures import number, ratios_in_turn, span
from .run import start

HEAD = ['taps', 'references ms', 'taps ms', 'ratio', 'quartiles', 'copies', 'copied MiB']
#: Where a DeepLabV3 on ResNet-18 is read: before activations that work in place, and by CIRKD.
PLACES = {
    'bn2 of four stages': [f'backbone.layer{stage}.1.bn2.out' for stage in (1, 2, 3, 4)],
    "CIRKD's": ['decode_head.conv_seg.in', 'decode_head.conv_seg.out'],
}
SIZE, BATCH = (240, 240), 2


def measure(names: Sequence[str], args: Namespace) -> Iterator[dict[str, Any]]:
    """One entry for each of `PLACES`, as it is written to JSON."""
    for name in names or PLACES:
        job = dict(kind='taps', place=name, threads=args.threads, device=args.device)
        found = start(dict(job, pairs=1 if args.quick else 10 * args.rounds))
        yield dict(place=name, **found)


def render(result: dict[str, Any]) -> str:
    """One place as a table."""
    if 'failed' in result:
        return f'{result["place"]}\nfailed: {result["failed"]}\n'
    ratios = ratios_in_turn(*(dict(times=result[key]) for key in ('taps', 'references')))
    assert ratios is not None
    times = [median(result[key]) * 1e3 for key in ('references', 'taps')]
    return for_stream(
        HEAD,
        [
            [
                result['place'],
                *map(number, times),
                number(ratios['median'], 3),
                span(ratios['quartiles'], digits=3),
                str(result['copies']),
                number(result['mib'], 1),
            ]
        ],
        numbers=True,
    )


def sound(result: dict[str, Any]) -> bool:
    """Return True if the steps ran."""
    return 'failed' not in result


def measure_taps(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of steps of both kinds, one after the other, the order changing with every pair."""
    from kdmm.distillers import Taps

    model = _network().to(job['device']).train()
    paths = dict(enumerate(PLACES[job['place']]))
    taps = Taps(model, {str(key): path for key, path in paths.items()}, 'student')
    batch = [torch.randn(BATCH, 3, *SIZE, device=job['device']), _samples(job['device'])]
    kinds: dict[str, Callable[[], Any]] = dict(
        references=lambda: _references(model, PLACES[job['place']]), taps=taps.record
    )
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for pair in range(job['pairs'] + 1):
        for name in sorted(kinds, reverse=bool(pair % 2)):
            seconds = _step(model, batch, kinds[name], job['device'])
            if pair:  # the first of both kinds warms up, and finds out what is overwritten
                times[name].append(seconds)
    known = [key for (key, _, _), copied in taps._overwritten.items() if copied]
    with taps.record() as found:
        model(*batch, mode='loss')
    mib = sum(found[key].numel() * found[key].element_size() for key in known) / 2**20
    return dict(times, copies=len(known), mib=mib)


def _step(model: nn.Module, batch: list[Any], record: Callable[[], Any], device: str) -> float:
    _wait(device)
    begin = time.perf_counter()
    with record() as found:
        losses = model(*batch, mode='loss')
    terms = [x.float().mean() for x in (*losses.values(), *found.values()) if x.requires_grad]
    torch.stack(terms).sum().backward()
    _wait(device)
    seconds = time.perf_counter() - begin
    model.zero_grad()
    return seconds


@contextmanager
def _references(model: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The plain form: whatever is in the tensor when the loss reads it."""
    found: dict[str, Tensor] = {}
    handles = []
    for path in paths:
        module, _, side = path.rpartition('.')

        def keep(_: Any, args: Any, output: Any, path: str = path, side: str = side) -> None:
            found[path] = args[0] if side == 'in' else output

        handles.append(model.get_submodule(module).register_forward_hook(keep))
    yield found
    for handle in handles:
        handle.remove()


def _network() -> nn.Module:
    from mmengine.registry import MODELS

    from kdmm.teachers.teacher import load_model_config

    spec, scope = load_model_config(
        'mmseg::deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    )
    spec.update(pretrained=None, _scope_=scope)
    return MODELS.build(spec)


def _samples(device: str) -> list[Any]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = torch.zeros(1, *SIZE, dtype=torch.int64, device=device)
    return [SegDataSample(gt_sem_seg=PixelData(data=labels)) for _ in range(BATCH)]


def _wait(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize()
