"""Checks of views when the model is built: channels, and where the content lies."""

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from kdmm.distillers.probe import Size, input_channels
from kdmm.distillers.views import View, Views, previewed
from kdmm.errors import ConfigError
from kdmm.utils.normalization import Normalization

#: Centres (y, x) of squares of `SIDE` in an image, as shares of its height and width. No flip,
#: rotation or transposition brings one to itself.
PLACES = ((0.2, 0.35), (0.7, 0.15), (0.4, 0.8), (0.85, 0.6))
SIDE = 0.2
#: Draws of a random view for each place.
DRAWS = 4
#: Colour of the squares: far from dark grey in lightness and in chroma.
COLOUR = (255.0, 160.0, 0.0)
#: A square that is this much weaker than in the image is hidden (by Cutout, say), as is one of
#: which less than half is left.
VISIBLE = 0.1
#: Least side of the image, in which a blur of a few pixels leaves a square one.
LEAST = 64


def check_student_views(views: Views, student: nn.Module, size: Size) -> None:
    """Refuse views of a student that would not fit its labels and its tests.

    Args:
        views: Of ``kd.inputs``.
        student: The network.
        size: (H, W) of an image.

    Raises:
        ConfigError: If a view is no augmentation, or changes geometry or channels.
    """
    for where, view in views.views.items():
        kind = type(view).__name__
        if not view.augments:
            raise ConfigError(
                f'{kind} is no augmentation: a student that is trained on it would be tested on '
                'images as they are',
                key=where,
                got=kind,
                fix="Convert the images in the student's pipelines, of training and of testing "
                '(kdmm.ToLuminance, kdmm.ToChrominance), and give the teacher its own inputs.',
            )
        if view.geometry != 'kept':
            raise ConfigError(
                f'{kind} changes geometry, and the labels and maps of the student would not follow',
                key=where,
                got=kind,
                fix='Transforms of geometry belong in the pipeline.',
            )
    _check(views, student, student, size)


def check_views(views: Views, teacher: nn.Module, student: nn.Module, size: Size) -> None:
    """Refuse views that do not fit a teacher, or do to the geometry what they do not declare.

    Args:
        views: Of the teacher; the log names them.
        teacher: The network.
        student: Whose batch they get.
        size: (H, W) of its images.

    Raises:
        ConfigError: Names the view or the key, and both numbers of channels.
    """
    mixes = getattr(student.get_submodule('data_preprocessor'), 'batch_augments', None)
    for where, view in views.views.items():
        if view.reads_samples and mixes:
            kind = type(view).__name__
            raise ConfigError(
                f'{kind} reads images that model.data_preprocessor.batch_augments does not mix or '
                'resize as it does those of the batch',
                key=where,
                got=kind,
                fix='Leave batch_augments out.',
            )
    _check(views, teacher, student, size)


def _check(views: Views, network: nn.Module, student: nn.Module, size: Size) -> None:
    """Try the views with a pattern, and compare channels."""
    channels = input_channels(student)
    plain, marked = patterns(channels, size)
    for where, view in views.views.items():
        after = [previewed(where, view, images) for images in (plain, marked)]
        _check_repeatable(where, view, marked, after[1])
        _check_places(where, view, plain, marked, after)
        plain, marked = after
    _check_channels(views.where, network, plain)
    print_log(f'{views.where}: {views}', 'current')


def patterns(channels: int, size: Size) -> tuple[Tensor, Tensor]:
    """Images without and with a bright square, ``DRAWS`` for each place, (N, channels, H, W)."""
    height, width = (max(side, LEAST) for side in size)
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    plain = (48 + 32 * noise).repeat(len(PLACES) * DRAWS, 1, 1, 1)
    marked = plain.clone()
    for image, (y, x) in zip(marked, PLACES * DRAWS, strict=True):
        rows = slice(round((y - SIDE / 2) * height), round((y + SIDE / 2) * height))
        columns = slice(round((x - SIDE / 2) * width), round((x + SIDE / 2) * width))
        image[:, rows, columns] = torch.tensor(COLOUR)[:, None, None]
    if channels != 3:  # any
        plain, marked = (x[:, :1].expand(-1, channels, -1, -1) for x in (plain, marked))
    return plain, marked


def centres(plain: Tensor, marked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find where two batches differ.

    Returns:
        (y, x) of the middle of what differs by at least half of the most, as shares of height and
        width, (N, 2); the share of the image that does, (N,); and how much that most is, summed
        over channels, (N,).
    """
    # (N, C, H, W) -> (N, H, W)
    difference = (marked.float() - plain.float()).abs().sum(1)
    most = difference.amax((1, 2))
    weight = (difference >= most[:, None, None] / 2).float()
    axes = [(torch.arange(n) + 0.5) / n for n in weight.shape[1:]]
    total = weight.sum((1, 2))
    y = (weight.sum(2) * axes[0]).sum(1) / total
    x = (weight.sum(1) * axes[1]).sum(1) / total
    return torch.stack([y, x], 1), weight.mean((1, 2)), most


def _check_repeatable(where: str, view: View, images: Tensor, first: Tensor) -> None:
    if not torch.equal(previewed(where, view, images), first):
        raise ConfigError(
            f'{type(view).__name__} gives another result for the same images and generator, so '
            'that a run could not be resumed',
            key=where,
            fix='Draw all random numbers from the generator that the view is called with.',
        )


def _check_places(
    where: str, view: View, plain: Tensor, marked: Tensor, after: list[Tensor]
) -> None:
    """Compare what a view does to the places of the squares with what it declares."""
    kind, before, now = type(view).__name__, tuple(marked.shape[2:]), tuple(after[1].shape[2:])
    fix = (
        f"Declare geometry = 'resized' in {kind} if the content keeps its place as shares of "
        "height and width, else 'moved'; then only what has no places is compared."
    )
    if view.geometry == 'kept' and before != now:
        raise ConfigError(
            f'{kind} makes images of {before[0]} x {before[1]} into {now[0]} x {now[1]} (h x w), '
            "and declares geometry = 'kept'",
            key=where,
            got=kind,
            fix=fix,
        )
    if view.geometry == 'moved':
        return
    (place, area, most), (found, left, light) = centres(plain, marked), centres(*after)
    seen = (left >= area / 2) & (light >= VISIBLE * most)
    moved = seen & ((found - place).abs() > 0.6 * SIDE).any(1)
    if moved.any():
        (y0, x0), (y1, x1) = place[moved][0].tolist(), found[moved][0].tolist()
        raise ConfigError(
            f'{kind} moves the content, from (y, x) = ({y0:.2f}, {x0:.2f}) to ({y1:.2f}, {x1:.2f}) '
            f'as shares of height and width, and declares geometry = {view.geometry!r}',
            key=where,
            got=kind,
            fix=fix,
        )


def _check_channels(where: str, network: nn.Module, images: Tensor) -> None:
    """Compare channels with the network's first convolution and its normalization."""
    channels, trunk = images.shape[1], getattr(network, 'backbone', network)
    first = next(
        (
            (name, part)
            for name, part in network.named_modules()
            if isinstance(part, _ConvNd) and any(part is inner for inner in trunk.modules())
        ),
        None,
    )
    kind = type(network).__name__
    if first is not None and first[1].in_channels != channels and not _runs(network, images):
        raise ConfigError(
            f'images of {channels} channel(s) for a {kind} whose first convolution, {first[0]}, '
            f'takes {first[1].in_channels}',
            key=where,
            fix='Choose another view (channels=...), or a network for as many channels '
            '(in_channels=... of its backbone).',
        )
    norm = Normalization.of(network.get_submodule('data_preprocessor'))
    for name, values in (('mean', norm.mean), ('std', norm.std)):
        if len(values) not in (0, 1, channels):
            raise ConfigError(
                f'images of {channels} channel(s) for a {kind} whose data_preprocessor.{name} has '
                f'{len(values)} values',
                key=where,
                fix='Give it one value a channel of what the view makes, as it was trained with.',
            )


def _runs(network: nn.Module, images: Tensor) -> bool:
    """Return True if a network takes such images all the same, as YOLOX does behind its focus."""
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            network(images[:1].to(next(network.parameters())), None, mode='tensor')
    except Exception:  # of whatever kind; the static finding stands
        return False
    finally:
        network.train(was_training)
    return True
