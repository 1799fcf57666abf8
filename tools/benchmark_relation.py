"""Time and peak memory of the pixel-to-pixel loss: a loop over pairs with autograd, and streamed.

Each form runs in a process of its own, so that neither's peak hides the other's:

    python tools/benchmark_relation.py --batch 1 2 --device cpu
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MIB = 2**20


def parse_args() -> argparse.Namespace:
    """Shapes default to a 512 x 1024 crop at stride 8 and the paper's channel counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--batch', type=int, nargs='+', default=[1, 2, 4])
    parser.add_argument('--height', type=int, default=64)
    parser.add_argument('--width', type=int, default=128)
    parser.add_argument('--student-channels', type=int, default=128)
    parser.add_argument('--teacher-channels', type=int, default=256)
    parser.add_argument('--tau', type=float, default=0.1)
    parser.add_argument('--chunk', type=int, help='rows of a block map (default: automatic)')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='CPU threads')
    parser.add_argument('--repeat', type=int, default=1, help='the fastest counts')
    parser.add_argument('--json', type=Path, help='also write the figures there')
    parser.add_argument('--child', choices=('naive', 'streamed'), help=argparse.SUPPRESS)
    return parser.parse_args()


def naive(student: Any, teacher: Any, args: argparse.Namespace) -> Any:
    """The textbook form: two maps per ordered pair of images stay alive until the backward pass."""
    import torch.nn.functional as F

    batch = student.shape[0]
    rows = [F.normalize(x, dim=1).flatten(2).transpose(1, 2) for x in (student, teacher)]
    total = student.new_zeros(())
    for i in range(batch):
        for j in range(batch):
            logits = [x[i] @ x[j].T / args.tau for x in rows]
            log_s, log_t = F.log_softmax(logits[0], dim=1), F.softmax(logits[1], dim=1)
            total = total + F.kl_div(log_s, log_t, reduction='batchmean')
    return total / batch**2


def streamed(student: Any, teacher: Any, args: argparse.Namespace) -> Any:
    """Kdmm's form."""
    from kdmm.functional import pixel_to_pixel_kl

    return pixel_to_pixel_kl(student, teacher, args.tau, chunk=args.chunk)


def peak_bytes(device: str) -> int:
    """Peak so far: of the process, or of the GPU's tensors."""
    import torch

    if device.startswith('cuda'):
        return torch.cuda.max_memory_allocated()
    status = Path('/proc/self/status')
    if status.exists():  # unlike getrusage, not inherited from the parent process
        line = next(x for x in status.read_text().splitlines() if x.startswith('VmHWM'))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One form at one batch size, forward and backward."""
    import torch

    import kdmm.functional  # noqa: F401  (both forms carry the same imports)

    torch.set_num_threads(args.threads)
    form = dict(naive=naive, streamed=streamed)[args.child]
    generator = torch.Generator().manual_seed(0)
    size = (args.height, args.width)
    student, teacher = (
        torch.randn(args.batch[0], channels, *size, generator=generator).relu_().to(args.device)
        for channels in (args.student_channels, args.teacher_channels)
    )
    warm = [x[:1, :, :8, :8].clone().requires_grad_() for x in (student, teacher)]
    form(warm[0], warm[1].detach(), args).backward()
    student.requires_grad_()
    before, seconds = peak_bytes(args.device), []
    for _ in range(args.repeat):
        start = time.perf_counter()
        loss = form(student, teacher, args)
        (gradient,) = torch.autograd.grad(loss, student)
        if args.device.startswith('cuda'):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = peak_bytes(args.device)
    return dict(
        loss=loss.item(),
        gradient_norm=gradient.norm().item(),
        seconds=min(seconds),
        peak_mib=peak / MIB,
        added_mib=(peak - before) / MIB,
    )


def run_child(form: str, batch: int, args: argparse.Namespace) -> dict[str, float]:
    """:func:`measure` in a fresh interpreter."""
    command = [sys.executable, __file__, *sys.argv[1:], '--batch', str(batch), '--child', form]
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')]))
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': path}
    )
    if done.returncode:
        killed = ' (killed: out of memory?)' if done.returncode < 0 else ''
        raise SystemExit(f'{form}, batch {batch} failed{killed}\n{done.stderr[-2000:]}')
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print one row a batch size and form, and the ratios."""
    args = parse_args()
    if args.child:
        print(json.dumps(measure(args)))
        return
    shape = f'{args.height} x {args.width}, {args.student_channels}/{args.teacher_channels}'
    print(f'{shape} channels, {args.device}, {args.threads} threads; added: over inputs and torch')
    print(f'{"B":>3} {"form":>9} {"loss":>12} {"seconds":>9} {"peak MiB":>9} {"added MiB":>9}')
    results = []
    for batch in args.batch:
        row = {form: run_child(form, batch, args) for form in ('naive', 'streamed')}
        for form, x in row.items():
            print(
                f'{batch:>3} {form:>9} {x["loss"]:>12.7f} {x["seconds"]:>9.3f} '
                f'{x["peak_mib"]:>9.0f} {x["added_mib"]:>9.0f}'
            )
        ratio = {
            name: row['naive'][name] / max(row['streamed'][name], 1e-9)
            for name in ('seconds', 'peak_mib', 'added_mib')
        }
        print(
            f'{batch:>3} naive / streamed: time {ratio["seconds"]:.2f}, '
            f'peak {ratio["peak_mib"]:.2f}, added {ratio["added_mib"]:.2f}',
            flush=True,
        )
        results.append(dict(batch=batch, **row, ratio=ratio))
    if args.json:
        args.json.write_text(json.dumps(dict(settings=vars(args), results=results), default=str))


if __name__ == '__main__':
    main()
