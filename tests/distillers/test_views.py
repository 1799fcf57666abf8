"""A network's own view of the batch: what reaches the networks, randomness, and refusals."""

import copy
import random
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kdmm.distillers import Progress, View, distill
from kdmm.distillers.view_checks import centres, patterns
from kdmm.distillers.views import Photometric, Views
from kdmm.engine import Runner
from kdmm.functional import collective
from kdmm.functional.views import chrominance, luminance
from kdmm.registry import MODELS
from tests.distillers.tiny_models import CLASSES, KD, images, samples
from tests.engine import tiny_run
from tests.errors import refused
from tests.ranks import on_ranks

STUDENT = dict(type='ImgDataPreprocessor', mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0],
               bgr_to_rgb=True)  # fmt: skip
TEACHER = dict(type='ImgDataPreprocessor', mean=[10.0, 20.0, 30.0], std=[2.0, 4.0, 8.0])


@MODELS.register_module(force=True)
class Pooled(BaseModel):
    """Has maps, and pooled features without places; no batch normalisation, no dropout."""

    def __init__(self, channels: int = 3, width: int = 4, data_preprocessor: Any = None) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.stem = nn.Conv2d(channels, width, 3, 2, 1)
        self.head = nn.Conv2d(width, CLASSES, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'tensor') -> Any:
        features = self.stem(inputs).relu()
        self.pool(features)
        logits = self.head(features)
        return logits if mode != 'loss' else dict(loss=logits.square().mean())


@MODELS.register_module(force=True)
class Flip(View):
    """Moves the content and does not say so."""

    share = 1.0

    def __call__(self, images: Any, samples: Any, random: torch.Generator) -> Any:
        flipped = torch.rand(len(images), generator=random) < self.share
        return torch.where(flipped.view(-1, 1, 1, 1), images.flip(-1), images)


@MODELS.register_module(force=True)
class SometimesFlip(Flip):
    share = 0.3


@MODELS.register_module(force=True)
class Turn(View):
    """A transposition keeps the size of a square."""

    def __call__(self, images: Any, samples: Any, random: torch.Generator) -> Any:
        return images.transpose(2, 3).contiguous()


@MODELS.register_module(force=True)
class Halve(View):
    def __call__(self, images: Any, samples: Any, random: torch.Generator) -> Any:
        return images[..., ::2, ::2]


@MODELS.register_module(force=True)
class ResizedFlip(Flip):
    geometry: ClassVar[str] = 'resized'


@MODELS.register_module(force=True)
class DeclaredFlip(Flip):
    geometry: ClassVar[str] = 'moved'


@MODELS.register_module(force=True)
class FlipForStudents(DeclaredFlip):
    augments: ClassVar[bool] = True


@MODELS.register_module(force=True)
class GlobalNoise(View):
    def __call__(self, images: Any, samples: Any, random: torch.Generator) -> Any:
        return images + torch.rand_like(images)


@MODELS.register_module(force=True)
class Identity(View):
    def __call__(self, images: Any, samples: Any, random: torch.Generator) -> Any:
        return images


@MODELS.register_module(force=True)
class Misdeclared(Identity):
    geometry: ClassVar[str] = 'changes'


MODELS.register_module(name='NoView', force=True, module=nn.Identity)


def net(preprocessor: Any = None, channels: int = 3, width: int = 4) -> dict:
    return dict(type='kdmm.Pooled', channels=channels, width=width, data_preprocessor=preprocessor)


def preprocessor_of(channels: int) -> dict:
    """Values for three channels, or one for all: MMEngine takes no other number."""
    count = 3 if channels == 3 else 1
    return {**TEACHER, 'mean': TEACHER['mean'][:count], 'std': TEACHER['std'][:count]}


def made(inputs: Any = None, channels: int = 3, own: Any = None, **changes: Any) -> Any:
    """A student whose teacher has the view ``inputs``, and that has ``own`` itself."""
    torch.manual_seed(0)
    theirs = preprocessor_of(channels)
    section = dict(
        copy.deepcopy(KD),
        teacher=dict(model=net(theirs, channels, 6), random=True, inputs=inputs),
        inputs=own,
        taps=dict(logits='head.out'),
        **changes,
    )
    return distill(net(copy.deepcopy(STUDENT)), **section).train()


def pixels(count: int = 2, size: int = 16) -> torch.Tensor:
    """Images as files have them: (B, 3, H, W) of 0 to 255, BGR."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).float()


def batch(bgr: torch.Tensor) -> torch.Tensor:
    """Files as the student's preprocessor gives them."""
    mean, std = (torch.tensor(STUDENT[key]).view(1, 3, 1, 1) for key in ('mean', 'std'))
    return (bgr.flip(1) - mean) / std


def seen_by(network: nn.Module) -> list[torch.Tensor]:
    """The inputs of a network's first layer from now on."""
    found: list[torch.Tensor] = []
    network.stem.register_forward_pre_hook(lambda _, args: found.append(args[0].clone()))
    return found


def run(model: Any, inputs: torch.Tensor, labelled: Any = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return model(inputs, labelled or samples(len(inputs)), mode='loss')


# what reaches the networks


@pytest.mark.parametrize(
    'view, channels, expected',
    [
        (dict(type='Luminance'), 3, lambda rgb: luminance(rgb).repeat(1, 3, 1, 1)),
        (dict(type='Luminance', channels=1), 1, luminance),
        (dict(type='Chrominance'), 2, chrominance),
        (
            [dict(type='Luminance'), dict(type='Grey', channels=1)],
            1,
            luminance,
        ),
    ],
)
def test_the_teacher_sees_the_view_in_its_own_normalization_and_the_student_does_not(
    view, channels, expected
):
    model, bgr = made(view, channels), pixels()
    theirs, mine = seen_by(model.kd.teachers[0].module), seen_by(model)
    run(model, batch(bgr))
    mean, std = (
        torch.tensor(preprocessor_of(channels)[k]).view(1, -1, 1, 1) for k in ('mean', 'std')
    )
    wanted = expected(bgr.flip(1))
    torch.testing.assert_close(theirs[0], (wanted - mean) / std, rtol=1e-4, atol=1e-3)
    assert torch.equal(mine[0], batch(bgr))


def test_colours_reach_a_network_in_its_own_order():
    """The teacher is for BGR: a view that changes values gives them back in that order."""

    @MODELS.register_module(force=True)
    class Redder(View):
        def __call__(self, images: Any, samples: Any, random: torch.Generator) -> Any:
            return images * images.new_tensor([2.0, 1.0, 1.0]).view(1, 3, 1, 1)

    model, bgr = made(dict(type='Redder')), pixels()
    theirs = seen_by(model.kd.teachers[0].module)
    run(model, batch(bgr))
    bgr[:, 2] *= 2
    mean, std = (torch.tensor(TEACHER[key]).view(1, 3, 1, 1) for key in ('mean', 'std'))
    torch.testing.assert_close(theirs[0], (bgr - mean) / std, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    'view', [dict(type='Identity'), [], dict(type='ResizeImages', scale=1.0),
             dict(type='Photometric', brightness=0, contrast=0, blur=None, cutout=0)]
)  # fmt: skip
@pytest.mark.parametrize('same', [True, False])
def test_a_view_that_changes_nothing_is_none_to_the_bit(view, same):
    found = []
    for inputs in (view, None):
        model = made(inputs)
        if same:
            teacher = dict(model=net(copy.deepcopy(STUDENT), 3, 6), random=True, inputs=inputs)
            model = distill(net(copy.deepcopy(STUDENT)), **{**KD, 'teacher': teacher}).train()
        theirs = seen_by(model.kd.teachers[0].module)
        run(model, images())  # no whole numbers, which a round trip might restore
        found += theirs
    assert torch.equal(*found)


def test_padding_is_restored_where_a_view_changed_the_size():
    model = made(dict(type='ResizeImages', scale=0.5), losses=dict(
        kd=dict(type='KDLoss', on='logits', connector=dict(type='Resize'))))  # fmt: skip
    labelled = samples(2)
    labelled[1].img_shape = (9, 12)
    theirs = seen_by(model.kd.teachers[0].module)
    run(model, batch(pixels()), labelled)
    assert theirs[0].shape == (2, 3, 8, 8)
    assert (theirs[0][1, :, 5:] == 0).all() and (theirs[0][1, :, :, 6:] == 0).all()
    assert (theirs[0][1, :, :5, :6] != 0).all() and (theirs[0][0] != 0).all()


def test_padding_is_not_restored_over_content_that_a_view_moved():
    """A flip brings an image's content to the right, where its padding was."""
    labelled = samples(2)
    labelled[1].img_shape = (16, 9)
    seen = []
    for inputs in (None, dict(type='DeclaredFlip')):
        model = distill(
            net(copy.deepcopy(STUDENT), width=6),
            teacher=dict(model=net(copy.deepcopy(TEACHER), 3, 6), random=True, inputs=inputs),
            taps=dict(pooled='pool.out'),
            losses=dict(fit=dict(type='FitNetLoss', on='pooled')),
            probe_size=(16, 16),
        ).train()
        found = seen_by(model.kd.teachers[0].module)
        run(model, batch(pixels()), labelled)
        seen += found
    plain, flipped = seen
    assert (plain[1, ..., 9:] == 0).all()
    torch.testing.assert_close(flipped[1, ..., 7:], plain[1, ..., :9].flip(-1))


def test_shapes_are_predicted_for_the_size_that_the_teacher_sees():
    """Of a fixed size, whatever the training crop."""
    preprocessor = dict(type='SegDataPreProcessor', _scope_='mmseg', size=(128, 128))
    student = net(copy.deepcopy(preprocessor))
    teacher = dict(model=net(), random=True, inputs=dict(type='ResizeImages', size=(32, 32)))
    losses = dict(kd=dict(type='KDLoss', on='logits'))
    with refused(key='kd.losses.kd', problem=('(1, 3, 64, 64)', '(1, 3, 16, 16)')):
        distill(student, teacher=teacher, taps=dict(logits='head.out'), losses=losses)


def test_two_teachers_see_their_own():
    views = [dict(type='Luminance'), dict(type='Chrominance')]
    theirs = [copy.deepcopy(TEACHER), dict(TEACHER, mean=[0.0], std=[1.0])]
    teachers = [
        dict(model=net(t, c, 6), random=True, inputs=v)
        for t, c, v in zip(theirs, (3, 2), views, strict=True)
    ]
    losses = {f'kd{i}': dict(type='KDLoss', on='logits', teacher=i) for i in (0, 1)}
    model = distill(
        net(copy.deepcopy(STUDENT)), **{**KD, 'teacher': teachers, 'losses': losses}
    ).train()
    found = [seen_by(teacher.module) for teacher in model.kd.teachers]
    bgr = pixels()
    run(model, batch(bgr))
    lightness = luminance(bgr.flip(1))[:, 0]
    torch.testing.assert_close(found[0][0][:, 0] * 2 + 10, lightness, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[1][0], chrominance(bgr.flip(1)), rtol=1e-4, atol=1e-3)
    teachers[1]['inputs'] = dict(type='Luminance')
    with refused(key='kd.teacher[1].inputs'):
        distill(net(copy.deepcopy(STUDENT)), **{**KD, 'teacher': teachers, 'losses': losses})


# random views


def test_a_strong_view_of_the_student_and_a_weak_one_of_the_teacher():
    model, plain = made(own=dict(type='Photometric')), batch(pixels(4))
    mine, theirs = seen_by(model), seen_by(model.kd.teachers[0].module)
    run(model, plain, samples(4))
    assert not torch.allclose(mine[0], plain, atol=0.1)
    weak = made()
    expected = seen_by(weak.kd.teachers[0].module)
    run(weak, plain, samples(4))
    assert torch.equal(theirs[0], expected[0])
    model.eval()
    run(model, plain, samples(4))
    assert torch.equal(mine[1], plain)  # tests see the images as they are


def draw(views: Views, seed: int, iteration: int, x: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(seed)
    views.progress = Progress(iteration)
    return views(x, None)


def test_random_views_are_functions_of_seed_iteration_and_network_alone():
    x = pixels(4)
    one, other = (Views(dict(type='Photometric'), 'here', stream) for stream in (0, 1))
    first = draw(one, 5, 7, x)
    torch.rand(3)
    assert torch.equal(draw(one, 5, 7, x), first)
    changed = draw(one, 6, 7, x), draw(one, 5, 8, x), draw(other, 5, 7, x)
    assert all(not torch.equal(value, first) for value in changed)
    assert torch.equal(draw(Views([dict(type='Photometric')], 'there'), 5, 7, x), first)
    twice = draw(Views([dict(type='Photometric')] * 2, 'here'), 5, 7, x)
    assert not torch.equal(twice, Photometric()(first, None, torch.Generator().manual_seed(0)))


def test_each_iteration_and_each_network_has_draws_of_its_own():
    strong = dict(type='Photometric', blur=None, cutout=0)
    second = dict(model=net(copy.deepcopy(STUDENT), 3, 6), random=True, inputs=strong)
    losses = {f'kd{i}': dict(type='KDLoss', on='logits', teacher=i) for i in (0, 1)}
    model = distill(
        net(copy.deepcopy(STUDENT)),
        **{**KD, 'teacher': [second, copy.deepcopy(second)], 'inputs': strong, 'losses': losses},
    ).train()
    networks = [model, *(teacher.module for teacher in model.kd.teachers)]
    found = [seen_by(network) for network in networks]
    for iteration in (0, 1, 0):
        model.kd.set_progress(Progress(iteration))
        run(model, batch(pixels()))
    for first, later, again in found:
        assert torch.equal(first, again) and not torch.equal(first, later)
    assert not torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[1][0], found[2][0])


def test_no_other_random_stream_moves():
    model, x = made(dict(type='Photometric'), own=dict(type='Photometric')), batch(pixels())
    plain = made()
    states = []
    for net_ in (model, plain):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        net_(x, samples(), mode='loss')
        states.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert states[0] == states[1]


def test_options_of_strong_augmentation_do_what_they_say():
    x, generator = pixels(64), torch.Generator()

    def view(**options: Any) -> torch.Tensor:
        nothing = dict(brightness=0, contrast=0, blur=None, cutout=0)
        return Photometric(**{**nothing, **options})(x, None, generator.manual_seed(0))

    bright = view(brightness=0.4).clamp(max=254) / x.clamp(min=1)
    factors = bright.flatten(1).median(1).values
    assert 0.59 <= factors.min() < 0.8 and 1.2 < factors.max() <= 1.41
    contrast = view(contrast=0.4).flatten(1).std(1) / x.flatten(1).std(1)
    assert 0.59 <= contrast.min() < 0.8 and 1.1 < contrast.max() <= 1.41
    untouched = (view(blur=(1.0, 2.0), blur_share=0.25) == x).flatten(1).all(1)
    assert 0.6 < untouched.float().mean() < 0.9
    holes = (view(cutout=0.5, cutout_share=1.0) != x).any(1).float().mean((1, 2))
    assert holes.max() <= 0.27 and holes.min() > 0.03
    whole = (view(cutout=0.5, cutout_share=0.25) == x).flatten(1).all(1)
    assert 0.6 < whole.float().mean() < 0.9
    where = (view(cutout=0.2, cutout_share=1.0) != x).any(1).float()
    y, column = (where.amax(dim).argmax(1).float() for dim in (2, 1))
    assert torch.corrcoef(torch.stack([y, column]))[0, 1].abs() < 0.5
    assert min(y.max() - y.min(), column.max() - column.min()) > 8


def steps(model: Any, count: int) -> list[torch.Tensor]:
    """The teacher's inputs on this rank, and the gradients of the last step."""
    wrapped = DistributedDataParallel(model) if collective.distributed() else model
    found = seen_by(model.kd.teachers[0].module)
    for step in range(count):
        model.kd.set_progress(Progress(step))
        x = batch(pixels(4))[collective.rank() :: collective.world_size()]
        model.zero_grad()
        sum(wrapped(x, samples(len(x)), mode='loss').values()).backward()
    return [torch.stack(found), *(p.grad.clone() for p in model.parameters() if p.requires_grad)]


def on_each_rank() -> dict[str, list[torch.Tensor]]:
    strong = dict(type='Photometric')
    found = {name: steps(made(strong, own=strong), 2) for name in ('random', 'again')}
    drawn = draw(Views(strong, 'here'), 0, 0, pixels())  # of the same images and seed
    return dict(found, fixed=steps(made(dict(type='Luminance')), 1), drawn=[drawn])


def test_two_ranks():
    """Each draws for itself, and all train on the same gradients; a fixed view is that of one."""
    one, two = on_ranks(on_each_rank, 2)
    for kind in one:
        for a, b in zip(one[kind][1:], two[kind][1:], strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(one['drawn'][0], two['drawn'][0])
    for rank in (one, two):
        assert all(torch.equal(*pair) for pair in zip(rank['random'], rank['again'], strict=True))
    alone = steps(made(dict(type='Luminance')), 1)
    for whole, half in zip(alone[1:], one['fixed'][1:], strict=True):
        torch.testing.assert_close(half, whole, rtol=1e-4, atol=1e-6)


# geometry


def test_the_pattern_shows_where_content_goes():
    plain, marked = patterns(3, (80, 64))
    place, area, most = centres(plain, marked)
    torch.testing.assert_close(place[0], torch.tensor([0.2, 0.35]), atol=0.03, rtol=0)
    flipped, _, _ = centres(plain.flip(-1), marked.flip(-1))
    torch.testing.assert_close(flipped[:, 1], 1 - place[:, 1])
    assert len(place) == 16 and (most > 200).all()
    torch.testing.assert_close(area, torch.full((16,), 0.04), atol=0.01, rtol=0)


@pytest.mark.parametrize('kind', ['Flip', 'SometimesFlip', 'Turn', 'ResizedFlip'])
def test_content_that_moves_undeclared_is_refused(kind):
    with refused(key='kd.teacher.inputs', got=kind, problem='moves the content', fix='geometry'):
        made(dict(type=kind))


def test_a_size_that_changes_undeclared_is_refused():
    with refused(key='kd.teacher.inputs[1]', got='Halve', problem='64 x 64', fix="'resized'"):
        made([dict(type='Identity'), dict(type='Halve')])


def test_declared_movement_goes_with_what_has_no_places():
    with refused(key='kd.losses.kd', problem=("'logits'", '1x3x8x8', "'moved'"), fix='pooled'):
        made(dict(type='DeclaredFlip'))
    model = distill(
        net(copy.deepcopy(STUDENT), width=6),
        teacher=dict(model=net(None, 3, 6), random=True, inputs=dict(type='DeclaredFlip')),
        taps=dict(pooled='pool.out'),
        losses=dict(fit=dict(type='FitNetLoss', on='pooled')),
        probe_size=(16, 16),
    ).train()
    assert torch.isfinite(run(model, batch(pixels()))['kd.loss_fit'])


@pytest.mark.parametrize(
    'view', [dict(type='Photometric'), dict(type='Luminance'), dict(type='SecondImage'),
             dict(type='Photometric', cutout=0.9, cutout_share=1.0)]
)  # fmt: skip
def test_views_of_values_keep_their_places(view):
    for _ in range(3):
        made(view)


# refusals


@pytest.mark.parametrize(
    'changes, fields',
    [
        (
            dict(inputs=dict(type='Chrominance')),
            dict(key='kd.teacher.inputs', problem=('2 channel(s)', 'stem', '3')),
        ),
        (
            dict(inputs=dict(type='Luminance', channels=1), channels=3),
            dict(key='kd.teacher.inputs', problem=('1 channel(s)', 'stem', '3')),
        ),
        (
            dict(inputs=[dict(type='Chrominance'), dict(type='Luminance')], channels=3),
            dict(key='kd.teacher.inputs[1]', problem='(16, 2, 64, 64)'),
        ),
        (
            dict(inputs=dict(type='Luminence')),
            dict(key='kd.teacher.inputs.type', got='Luminence', problem='Luminance'),
        ),
        (dict(inputs=dict(type='Luminance', chanels=1)), dict(problem='channels')),
        (dict(inputs=dict(type='Luminance', channels=2)), dict(key='kd.teacher.inputs.channels')),
        (dict(inputs='Luminance'), dict(key='kd.teacher.inputs', expected='dict(type=')),
        (dict(inputs=dict(type='NoView')), dict(key='kd.teacher.inputs.type', fix='View')),
        (dict(inputs=dict(type='Misdeclared')), dict(key='Misdeclared.geometry', got='changes')),
        (dict(inputs=dict(type='GlobalNoise')), dict(key='kd.teacher.inputs', fix='generator')),
        (dict(inputs=dict(type='ResizeImages')), dict(key='kd.teacher.inputs.size')),
        (dict(inputs=dict(type='ResizeImages', size=9)), dict(key='kd.teacher.inputs.size')),
        (dict(inputs=dict(type='ResizeImages', scale=0)), dict(key='kd.teacher.inputs.scale')),
        (dict(inputs=dict(type='Photometric', cutout=2)), dict(key='kd.teacher.inputs.cutout')),
        (dict(inputs=dict(type='Photometric', blur=(2, 1))), dict(key='kd.teacher.inputs.blur')),
        (dict(inputs=dict(type='Photometric', blur=3)), dict(key='kd.teacher.inputs.blur', got=3)),
        (dict(inputs=dict(type='SecondImage', channels=0)), dict(problem='')),
        (
            dict(own=dict(type='Luminance')),
            dict(key='kd.inputs', got='Luminance', fix='kdmm.ToChrominance'),
        ),
        (dict(own=dict(type='FlipForStudents')), dict(key='kd.inputs', problem='geometry')),
    ],
)
def test_what_cannot_be_is_refused(changes, fields):
    with refused(**fields):
        made(**changes)


def test_a_normalization_of_other_channels_is_refused():
    teacher = dict(model=net(copy.deepcopy(TEACHER), 1), random=True,
                   inputs=dict(type='Luminance', channels=1))  # fmt: skip
    with refused(key='kd.teacher.inputs', problem=('1 channel(s)', 'mean', '3 values')):
        distill(net(), **{**KD, 'teacher': teacher})


class Focus(nn.Module):
    """Pixels to channels, as YOLOX has it before its first convolution."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_unshuffle(x, 2)


@MODELS.register_module(force=True)
class Focused(Pooled):
    """Its first convolution takes four times the channels of the images."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.stem = nn.Sequential(Focus(), nn.Conv2d(12, self.head.in_channels, 3, 1, 1))


def test_what_comes_before_the_first_convolution_may_change_the_channels():
    teacher = dict(model=dict(type='kdmm.Focused'), random=True, inputs=dict(type='Luminance'))
    made = distill(net(), **{**KD, 'teacher': teacher})
    assert made.kd.teachers[0].module.stem[1].in_channels == 12


def test_second_images_and_mixed_batches_are_refused():
    preprocessor = dict(type='ClsDataPreprocessor', _scope_='mmpretrain', num_classes=3,
                        batch_augments=dict(augments=dict(type='Mixup', alpha=0.8)))  # fmt: skip
    for view, mixed in (('SecondImage', True), ('Luminance', True), ('SecondImage', False)):
        teacher = dict(model=net(), random=True, inputs=dict(type=view))
        student = net(copy.deepcopy(preprocessor) if mixed else None)
        if view == 'SecondImage' and mixed:
            with refused(key='kd.teacher.inputs', got=view, problem='batch_augments'):
                distill(student, **{**KD, 'teacher': teacher})
        else:
            distill(student, **{**KD, 'teacher': teacher})


def test_batches_that_are_no_tensor_are_refused():
    model = made(dict(type='Luminance'))
    with refused(key='train_dataloader.dataset.pipeline', got='list'):
        model.kd.teachers[0]([images()[0]], samples(1))


# a second image


def depth_student(**options: Any) -> Any:
    return made(dict(type='SecondImage', key='depth', channels=1, **options), 1)


@pytest.mark.parametrize('form', ['array', 'array of one channel', 'tensor'])
def test_the_second_image_reaches_the_teacher(form):
    model, theirs = depth_student(), None
    theirs = seen_by(model.kd.teachers[0].module)
    depth, labelled = torch.arange(512.0).reshape(2, 16, 16), samples()
    for sample, image in zip(labelled, depth, strict=True):
        forms = dict(tensor=image[None], array=image.numpy())
        sample.depth = forms.get(form, image[..., None].numpy())
    run(model, batch(pixels()), labelled)
    torch.testing.assert_close(theirs[0][:, 0] * 2 + 10, depth)


def test_smaller_second_images_lie_as_their_images_do():
    labelled = [SimpleNamespace(depth=np.ones((16, 16)), img_shape=(16, 16)),
                SimpleNamespace(depth=np.ones((9, 12)), img_shape=(9, 12))]  # fmt: skip
    views = Views(dict(type='SecondImage', key='depth', channels=1), 'here')
    found = views(torch.zeros(2, 3, 16, 16), labelled)
    assert (found[0] == 1).all() and (found[1, :, :9, :12] == 1).all() and found[1].sum() == 108
    corner = views(torch.zeros(2, 3, 4, 4), labelled)  # as a dry run crops the batch
    assert (corner == 1).all() and corner.shape == (2, 1, 4, 4)


def test_colours_of_files_are_turned_to_rgb():
    bgr = np.zeros((4, 4, 3), np.uint8)
    bgr[..., 0] = 200
    x, sample = torch.zeros(1, 3, 4, 4), [SimpleNamespace(img2=bgr)]
    assert (Views(dict(type='SecondImage'), 'here')(x, sample)[:, 2] == 200).all()
    assert (Views(dict(type='SecondImage', bgr=False), 'here')(x, sample)[:, 0] == 200).all()


@pytest.mark.parametrize(
    'sample, fields',
    [
        (dict(), dict(key='train_dataloader.dataset.pipeline', problem="'depth'", fix='meta_keys')),
        (dict(depth=np.zeros((16, 15))), dict(problem='16 x 15', fix='kdmm.BothImages')),
        (dict(depth=np.zeros((16, 16, 3))), dict(key='SecondImage.channels', problem='3 channel')),
    ],
)
def test_second_images_that_do_not_fit_are_refused(sample, fields):
    model, labelled = depth_student(), samples()
    for item in labelled:
        vars(item).update(sample)
    with refused(**fields):
        run(model, batch(pixels()), labelled)


# whole runs


def test_a_run_with_random_views_resumes_to_the_bit(tmp_path):
    found = []
    for name in ('whole', 'resumed'):
        strong = dict(type='Photometric')
        kd = dict(
            teacher=dict(model=net(tiny_run.PREPROCESSOR, 3, 6), random=True, inputs=strong),
            inputs=strong,
            taps=dict(logits='head.out'),
            losses=dict(kd=dict(type='KDLoss', on='logits', weight=100.0)),
            task=dict(type='Linear', start=1.0, stop=0.0, end=4),
            probe_size=(16, 16),
        )
        cfg = tiny_run.config(tmp_path / name, kd)
        cfg.model = net(tiny_run.PREPROCESSOR)
        if name == 'resumed':
            cfg.load_from, cfg.resume = str(tmp_path / 'whole/iter_2.pth'), True
        runner = Runner.from_cfg(cfg)
        inputs = seen_by(runner.model)
        runner.train()
        found.append((inputs, runner.model.state_dict()))
    (whole, weights), (resumed, again) = found
    assert len(whole) == 4 and len(resumed) == 2
    assert all(torch.equal(*pair) for pair in zip(whole[2:], resumed, strict=True))
    assert all(torch.equal(value, again[key]) for key, value in weights.items())
