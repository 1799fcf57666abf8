"""Memory of a whole step, extrapolated from small forward passes."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdmm.distillers.objective import set_aside
from kdmm.distillers.term import gather_context
from kdmm.engine.crops import corner_crops, extrapolate, noise_at_full_size
from kdmm.engine.resources import ResourceMonitor
from kdmm.engine.saved_tensors import SavedTensors, total_bytes
from kdmm.functional.blocks import BUFFERS, block_elements
from kdmm.functional.collective import distributed
from kdmm.taps import leaves, map_leaves


@dataclass
class PassMemory:
    """Memory needed by a pass over the whole batch.

    Attributes:
        bytes: Kept until the backward pass.
        largest: Of the largest tensor, or of temporary tensors.
        taps: Tap name to noise in the shape of the activations of one image at full size.
        state: Memory that appears with the first step.
        notes: What failed.
    """

    bytes: int = 0
    largest: int = 0
    taps: Any = None
    state: int = 0
    notes: list[str] = field(default_factory=list)


def student_pass(
    student: nn.Module, optim: Any, inputs: Tensor, samples: Sequence[Any]
) -> PassMemory:
    """Memory kept by the student's own training loss, from crops of at most two images.

    Kept memory grows with the pixels (convolutions) and with their square (attention); crops of two
    sizes determine both factors.
    """
    known = [*student.parameters(), *student.buffers(), inputs]
    batch, whole = inputs.shape[0], inputs.shape[-2] * inputs.shape[-1]
    found: list[tuple[int, float]] = []
    largest, taps = 0, None
    before = {name: value.clone() for name, value in _own_buffers(student).items()}
    for crop, labels in corner_crops(inputs, samples):
        saved = SavedTensors([*known, crop])
        with optim.optim_context(student), set_aside(student) as kd:
            recorder = nullcontext({}) if kd is None else kd.student_taps.record()
            with saved.record(), recorder as found_taps:
                seen, mode = (crop, 'loss') if kd is None else (kd.seen(crop, labels), kd.task.mode)
                losses = student(seen, labels, mode=mode)
        pixels = crop.shape[-2] * crop.shape[-1]
        found.append((pixels, saved.total / crop.shape[0]))
        largest = int(saved.largest / crop.shape[0] * batch * whole / pixels)
        taps = noise_at_full_size(found_taps, crop, inputs)
        del losses, saved
    for name, value in _own_buffers(student).items():
        value.copy_(before[name])
    return PassMemory(int(batch * extrapolate(found, whole)), largest, taps)


def teacher_pass(objective: Any, optim: Any, inputs: Tensor, samples: Sequence[Any]) -> PassMemory:
    """Memory of the teachers' taps, and three times the largest output of a layer.

    ``taps`` of the result is a list, an item a teacher.
    """
    crop, labels = corner_crops(inputs, samples)[-1]
    scale = inputs.numel() / crop.numel()
    taps, kept, largest = [], 0, 0
    for teacher in objective.teachers:
        sizes: list[int] = []

        def note(module: Any, args: Any, output: Any, sizes: list[int] = sizes) -> None:
            sizes.extend(_sizes(output))

        innermost = [m for m in teacher.module.modules() if not any(True for _ in m.children())]
        hooks = [module.register_forward_hook(note) for module in innermost]
        with optim.optim_context(teacher.module):
            found = teacher(crop, labels)
        for hook in hooks:
            hook.remove()
        kept += sum(sum(_sizes(value)) for value in found.values())
        largest = max([largest, *sizes])
        taps.append(noise_at_full_size(found, crop, inputs))
    return PassMemory(int(kept * scale), int(3 * largest * scale), taps)


def term_passes(
    objective: Any, optim: Any, student: Mapping[str, Any], teachers: Any, samples: Sequence[Any]
) -> PassMemory:
    """Memory kept by copies of the terms for one image of noise at full size.

    A loss that compares images with each other gets as many as it needs.
    """
    result = PassMemory()
    for name, term in objective.terms.items():
        try:
            copied = copy.deepcopy(term)
            pair = copied.pick(student), copied.pick(teachers[term.teacher])
            _run_term(copied, optim, pair, samples, result)
        except Exception as error:  # an estimate must not stop what would run
            if distributed():
                raise  # the other ranks are waiting in this term's collectives
            result.notes.append(f'{name} ({type(error).__name__}: {error})')
    return result


def _run_term(term: Any, optim: Any, pair: Any, samples: Sequence[Any], result: PassMemory) -> None:
    """Add the memory of one term for the batch to ``result``."""
    images = term.loss.least_images
    pair = map_leaves(lambda x: _repeated(x, images), pair)
    like, held = next(leaves(pair)), total_bytes(term.buffers())
    saved = SavedTensors([*term.parameters(), *leaves(pair)])
    context = gather_context(term.loss.needs, samples[:images])
    with (
        optim.optim_context(term),
        saved.record(),
        ResourceMonitor(like.device).measure() as interval,
    ):
        losses = term(*pair, **context)
    result.bytes += saved.total * len(samples) // images
    result.state += max(total_bytes(term.buffers()) - held, 0)
    passing = 0
    if like.is_cuda:
        passing = interval.added - saved.total
    elif term.loss.blockwise:
        maps = (len(samples) * like[0, 0].numel()) ** 2
        passing = BUFFERS * 4 * min(block_elements(like.new_empty((), dtype=torch.float32)), maps)
    result.largest = max(result.largest, passing)
    del losses


def _repeated(x: Tensor, images: int) -> Tensor:
    """(1, ...) -> (images, ...), a leaf as before."""
    if images == 1:
        return x
    return x.detach().repeat(images, *[1] * (x.ndim - 1)).requires_grad_(x.requires_grad)


def _own_buffers(student: nn.Module) -> dict[str, Tensor]:
    """The student's buffers without the objective's."""
    with set_aside(student):
        return dict(student.named_buffers())


def _sizes(value: Any) -> list[int]:
    return [x.numel() * x.element_size() for x in leaves(value)]
