"""Shapes of the taps, found with a blank image before training starts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from kdmm.distillers.views import Views
from kdmm.errors import ConfigError
from kdmm.taps import DidNotRunError, Taps, map_leaves, trained
from kdmm.teachers.teacher import Teacher

Size = tuple[int, int]

#: Size of the blank image for networks that take images of any size.
DEFAULT: Size = (64, 64)
#: Modes of the forward pass that reads the taps; the second serves taps that the first does not
#: reach, as in auxiliary heads, and heads that need samples.
MODES = ('tensor', 'loss')


class BlankImageError(ConfigError):
    """A network does not run on a blank image of some size."""


@dataclass(frozen=True)
class Probe:
    """Predicted activations, blank.

    Attributes:
        pairs: Tap name to (student, teacher): zeros (1, C, h, w), of stride 0 and thus of no size.
        note: Describes the input, as the end of an error message.
    """

    pairs: dict[str, tuple[Any, Any]]
    note: str


def probe(
    student: nn.Module,
    student_taps: Taps,
    teacher: Teacher,
    size: Size | None = None,
    crop: Size | None = None,
    views: Views | None = None,
) -> Probe:
    """Run both networks on a blank image and scale the maps to the training crop.

    Args:
        student: The network to train.
        student_taps: Its taps.
        teacher: Records how often its tapped modules run, and in which mode.
        size: (H, W) of the image; None chooses one, see `sizes_to_try`.
        crop: (H, W) of the training images, where the student does not say it.
        views: Of the teacher, which may change the size of the images that it sees.

    Raises:
        ConfigError: If one of them does not run, or a tapped module does not.
    """

    def both(size: Size) -> tuple[dict[str, Any], dict[str, Any]]:
        theirs = blank_teacher_pass(teacher, student, size, views)
        return blank_pass(student, student_taps, size), theirs

    (mine, theirs), size = _at_first_size(both, student, size, crop)
    crop = training_crop(student) or crop
    seen = [
        views.size_of(input_channels(student), end) if views else end
        for end in (size, crop or size)
    ]
    pairs = {name: (_blank(mine[name], size, crop), _blank(theirs[name], *seen)) for name in theirs}
    return Probe(pairs, note_of(size, crop))


def blank_taps(
    network: nn.Module,
    taps: Taps,
    size: Size | None = None,
    crop: Size | None = None,
    of: nn.Module | None = None,
) -> tuple[dict[str, Any], str]:
    """Predict one network's activations; return blanks and the note on them, see `probe`."""
    of = of or network
    found, size = _at_first_size(lambda size: blank_pass(network, taps, size, of), of, size, crop)
    crop = training_crop(of) or crop
    return {name: _blank(value, size, crop) for name, value in found.items()}, note_of(size, crop)


def blank_pass(
    network: nn.Module,
    taps: Taps,
    size: Size | None = None,
    of: nn.Module | None = None,
    stop_early: bool = False,
) -> dict[str, Any]:
    """Record the taps of a pass on a blank image, in eval mode.

    Args:
        network: The network to run.
        taps: Its taps.
        size: (H, W) of the image.
        of: The network whose images it takes; default its own.
        stop_early: Abandon the pass once every tap was read.
    """
    of = of or network
    inputs, samples = blank_batch(of, size or sizes_to_try(of)[0])

    def run(mode: str) -> dict[str, Any]:
        with torch.no_grad(), taps.record(stop_early, tolerant=True) as found:
            network(inputs, samples, mode=mode)
        return found

    was_training = network.training
    try:
        network.eval()
        return _in_first_mode(run, network, taps.owner, inputs)[0]
    finally:
        network.train(was_training)


def blank_teacher_pass(
    teacher: Teacher, student: nn.Module, size: Size, views: Views | None = None
) -> dict[str, Any]:
    """Record the teacher's taps for a blank image of the student, and set the teacher's mode."""
    inputs, samples = blank_batch(student, size)
    if type(samples[0]) is not type(blank_sample(teacher.module, size)):  # of another library
        samples = [blank_sample(teacher.module, size)]
    view = (lambda images, _: views.preview(images)) if views else None
    found, teacher.mode = _in_first_mode(
        lambda mode: teacher.whole_pass(inputs, samples, mode, view),
        teacher.module,
        'teacher',
        inputs,
    )
    return found


def reached_parameters(
    network: nn.Module, taps: Taps, size: Size | None = None, crop: Size | None = None
) -> tuple[set[str], str]:
    """Find the parameters that the taps depend on, by a pass on a blank image in eval mode.

    Args:
        network: The network to run.
        taps: Its taps.
        size: (H, W) of the image; None chooses one, see `sizes_to_try`.
        crop: (H, W) of the training images, where the network does not say it.

    Returns:
        Names of the parameters, and the mode of the pass, one of `MODES`.
    """
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}

    def run(size: Size) -> tuple[dict[str, Any], str]:
        inputs, samples = blank_batch(network, size)

        def record(mode: str) -> dict[str, Any]:
            with torch.enable_grad(), taps.record(tolerant=True) as found:
                network(inputs, samples, mode=mode)
            return found

        return _in_first_mode(record, network, taps.owner, inputs)

    was_training = network.training
    try:
        network.eval()
        (found, mode), _ = _at_first_size(run, network, size, crop)
    finally:
        network.train(was_training)
    outputs = [x.sum() for x in trained(found)]
    if not outputs:
        return set(), mode
    grads = torch.autograd.grad(outputs, list(parameters.values()), allow_unused=True)
    return {name for name, grad in zip(parameters, grads, strict=True) if grad is not None}, mode


def sizes_to_try(
    network: nn.Module, size: Size | None = None, crop: Size | None = None
) -> list[Size]:
    """Sizes (H, W) of a blank image, the first preferred.

    The one given; else what the network is built for (MMPose's codec, ViT's ``img_size``); else
    `DEFAULT`, which is cheap, and the training crop for networks that do not take that.
    """
    size, crop = checked_size(size, 'kd.probe_size'), checked_size(crop, 'kd.crop_size')
    if size is not None:
        return [size]
    fixed = _fixed_size(network)
    if fixed:
        return [fixed]
    crop = training_crop(network) or crop
    return list(dict.fromkeys([DEFAULT, crop] if crop else [DEFAULT]))


def checked_size(value: Any, key: str) -> Size | None:
    """``value`` as (H, W), None as it is.

    Raises:
        ConfigError: Names ``key``, if it is no pair of positive integers.
    """
    if value is None:
        return None
    pair = isinstance(value, (list, tuple)) and len(value) == 2
    if not pair or not all(type(n) is int and n > 0 for n in value):
        raise ConfigError(key=key, got=value, expected='(height, width), two positive integers')
    return value[0], value[1]


def training_crop(student: nn.Module) -> Size | None:
    """(H, W) of training images: what the data preprocessor pads to, or the codec encodes."""
    return _as_size(getattr(_preprocessor(student), 'size', None)) or _fixed_size(student)


def note_of(size: Size, crop: Size | None) -> str:
    """Describe the input for which shapes were predicted."""
    note = 'for a training crop of {}x{}'.format(*(crop or size))
    if crop is None:
        note += ' (kd.probe_size; model.data_preprocessor does not say the size)'
    return note


def scaled(shape: Sequence[int], size: Size, crop: Size) -> tuple[int, ...]:
    """(B, C, h, w) for an image of ``size`` -> for one of ``crop``, rounded up."""
    if len(shape) != 4:
        return tuple(shape)
    sides = [-(-n * new // old) for n, old, new in zip(shape[2:], size, crop, strict=True)]
    return (*shape[:2], *sides)


def input_channels(network: nn.Module) -> int:
    """C of the images that a network takes: the preprocessor's, or its first convolution's."""
    mean = getattr(_preprocessor(network), 'mean', None)
    if isinstance(mean, Tensor) and mean.numel() > 1:  # one value is broadcast to all channels
        return mean.numel()
    trunk = getattr(network, 'backbone', network)
    convolutions = (part for part in trunk.modules() if isinstance(part, _ConvNd))
    first = next(convolutions, None)
    return 3 if first is None else first.in_channels


def blank_batch(network: nn.Module, size: Size) -> tuple[Tensor, list[Any]]:
    """A preprocessed batch of one image of zeros, (1, C, H, W), with its data sample."""
    like = next(network.parameters(), torch.zeros(()))
    inputs = like.new_zeros(1, input_channels(network), *size)
    sample = blank_sample(network, size)
    return inputs, [sample.to(inputs.device)]


def blank_sample(network: nn.Module, size: Size) -> Any:
    """Data sample of an image with one object of class 0, as the network's library packs it."""
    meta: dict[str, Any] = dict(
        **dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), size),
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        border=[0] * 4,  # read by CenterNet
        img_id=0,
        sample_idx=0,
        img_path='a blank image',
    )
    packers = dict(mmseg=_segmentation, mmdet=_detection, mmpretrain=_classification, mmpose=_pose)
    for kind in type(network).__mro__:
        library = kind.__module__.partition('.')[0]
        if library in packers:
            return packers[library](meta, size)
    return BaseDataElement(metainfo=meta)


def _segmentation(meta: dict[str, Any], size: Size) -> Any:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=meta)
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, *size, dtype=torch.int64))
    return sample


def _detection(meta: dict[str, Any], size: Size) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    (height, width), sample = size, DetDataSample(metainfo=meta)
    box = torch.tensor([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
    mask = torch.zeros(1, *size, dtype=torch.uint8)
    mask[:, height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 1
    sample.gt_instances = InstanceData(
        bboxes=box,
        labels=torch.zeros(1, dtype=torch.int64),
        masks=BitmapMasks(mask.numpy(), height, width),
    )
    sample.ignored_instances = InstanceData(bboxes=box[:0], labels=torch.zeros(0).long())
    sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, *size, dtype=torch.int64))
    return sample


def _classification(meta: dict[str, Any], size: Size) -> Any:
    from mmpretrain.structures import DataSample

    return DataSample(metainfo=meta).set_gt_label(0)


def _pose(meta: dict[str, Any], size: Size) -> Any:
    from mmpose.structures import PoseDataSample

    return PoseDataSample(metainfo=meta)  # its heads run alike in both modes, targets are not read


def _at_first_size(
    run: Callable[[Size], Any], network: nn.Module, size: Size | None, crop: Size | None
) -> tuple[Any, Size]:
    """Run at the first of `sizes_to_try` that the networks accept; return result and size."""
    *others, last = sizes_to_try(network, size, crop)
    for other in others:
        with suppress(BlankImageError):
            return run(other), other
    return run(last), last


def _in_first_mode(
    run: Callable[[str], dict[str, Any]], network: nn.Module, owner: str, inputs: Tensor
) -> tuple[dict[str, Any], str]:
    """Run in the first of `MODES` that reads all taps; return result and mode."""
    problems: dict[str, Exception] = {}
    for mode in MODES:
        with _kept_buffers(network):  # losses may move queues and running norms
            try:
                return run(mode), mode
            except Exception as error:
                problems[mode] = error
    for mode, problem in problems.items():
        if isinstance(problem, DidNotRunError):
            with _kept_buffers(network):
                raise problem.advised(_inside(network, problem.module, run, mode))
    problem = problems[MODES[0]]
    if isinstance(problem, ConfigError):
        raise problem
    shape = 'x'.join(map(str, inputs.shape))
    raise BlankImageError(
        f'the {owner} ({type(network).__name__}) does not run on a blank image of {shape} '
        f'({type(problem).__name__}: {problem})',
        key='kd.probe_size',
        fix='Give kd.probe_size=(height, width), the size of its training images.',
    ) from problem


def _inside(
    network: nn.Module, path: str, run: Callable[[str], Any], mode: str, count: int = 3
) -> str:
    """Advise to tap the last modules inside a silent one that ran, if any did."""
    ran: dict[str, None] = {}
    handles = [
        part.register_forward_hook(lambda *_, name=name: ran.update({name: None}))
        for name, part in network.get_submodule(path).named_modules(prefix=path)
        if name != path
    ]
    with suppress(Exception):
        run(mode)
    for handle in handles:
        handle.remove()
    if not ran:
        return ''
    names = ', '.join(f'{name}.out' for name in list(ran)[-count:])
    return (
        'Its forward() is called directly, which the hooks of a tap do not see; tap a module '
        f'inside it that ran, for instance {names}'
    )


@contextmanager
def _kept_buffers(network: nn.Module) -> Iterator[None]:
    kept = {name: value.clone() for name, value in network.named_buffers()}
    try:
        yield
    finally:
        for name, value in network.named_buffers():
            if name in kept and not torch.equal(value, kept[name]):
                value.copy_(kept[name])


def _preprocessor(network: nn.Module) -> Any:
    return getattr(network, 'data_preprocessor', None)


def _fixed_size(network: nn.Module) -> Size | None:
    """(H, W) of the codec, which stores (W, H), or of a backbone with position embeddings."""
    codec = getattr(getattr(network, 'head', None), 'decoder', None)
    size = _as_size(getattr(codec, 'input_size', None))
    if size:
        return size[1], size[0]
    return _as_size(getattr(getattr(network, 'backbone', None), 'img_size', None))


def _as_size(value: Any) -> Size | None:
    pair = isinstance(value, Sequence) and len(value) == 2
    return (
        (int(value[0]), int(value[1]))
        if pair and all(float(n).is_integer() for n in value)
        else None
    )


def _blank(value: Any, size: Size, crop: Size | None) -> Any:
    """Zeros of the shapes that training will give, of stride 0."""
    return map_leaves(lambda x: torch.zeros(()).expand(scaled(x.shape, size, crop or size)), value)
