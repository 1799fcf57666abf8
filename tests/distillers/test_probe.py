from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel, ImgDataPreprocessor
from torch import nn

from kdmm.distillers import distill
from kdmm.distillers.probe import input_channels, scaled, sizes_to_try, training_crop
from kdmm.losses import DistillLoss
from kdmm.registry import MODELS
from tests.distillers.tiny_models import KD, build, segmentor, tiny
from tests.errors import refused


@MODELS.register_module(force=True)
class Checked(DistillLoss):
    """Notes what it was checked with; needs maps of 32 x 32."""

    seen: list = []

    def check(self, student: torch.Tensor, teacher: torch.Tensor) -> None:
        self.seen.append((tuple(student.shape), tuple(teacher.shape)))
        if min(student.shape[2:]) < 32:
            raise ValueError(
                f'at least 32 x 32, not {tuple(student.shape)}, {tuple(teacher.shape)}'
            )

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return (student - teacher).square().mean()


@pytest.mark.parametrize(
    'shape, crop, expected',
    [
        ((1, 5, 8, 8), (512, 1024), (1, 5, 64, 128)),
        ((1, 5, 9, 9), (360, 360), (1, 5, 51, 51)),  # 50.6 is rounded up
        ((1, 5, 8, 8), (64, 64), (1, 5, 8, 8)),
        ((1, 5), (512, 1024), (1, 5)),
        ((1, 77, 5), (512, 1024), (1, 77, 5)),
    ],
)
def test_maps_grow_with_the_image(shape, crop, expected):
    assert scaled(shape, (64, 64), crop) == expected


def test_the_crop_is_what_the_preprocessor_pads_to():
    assert training_crop(build(segmentor(8))) == (32, 32)
    assert training_crop(build(tiny())) is None
    assert training_crop(torch.nn.Linear(1, 1)) is None


def sized(size: tuple[int, int] | None) -> dict:
    config = segmentor(8)
    config['data_preprocessor']['size'] = size
    return config


def make(size: tuple[int, int] | None, **changes: object) -> torch.nn.Module:
    Checked.seen.clear()
    taps = dict(logits='decode_head.conv_seg.out')
    losses = dict(c=dict(type='Checked', on='logits'))
    kd = {**KD, 'taps': taps, 'losses': losses, 'teacher': dict(model=segmentor(12), random=True)}
    return distill(sized(size), **{**kd, **changes})


def test_a_loss_is_checked_with_the_maps_of_the_training_crop():
    make((256, 512), probe_size=(64, 64))
    assert Checked.seen == [((1, 3, 32, 64), (1, 3, 32, 64))]


def test_maps_that_will_be_too_small_are_refused_when_the_model_is_built():
    told = ("on tap 'logits', ", '(1, 3, 16, 64), (1, 3, 16, 64)', '128x512')
    with refused(key='kd.losses.c', problem=told):
        make((128, 512), probe_size=(32, 64))


def test_where_the_crop_is_not_known_the_probe_stands_for_it():
    with refused(key='kd.losses.c', problem=('crop of 64x64', 'kd.probe_size')):
        make(None, probe_size=(64, 64))
    make(None, probe_size=(256, 256))


def test_it_needs_no_memory():
    made = make((256, 512))
    assert made is not None
    from kdmm.distillers.probe import probe

    found = probe(made, made.kd.student_taps, made.kd.teachers[0], (64, 64))
    for blank in found.pairs['logits']:
        assert blank.untyped_storage().nbytes() == 4


# models that take other images, or need more than images


@MODELS.register_module(force=True)
class Odd(BaseModel):
    """Channels, and what its pass needs, as the test asks for it."""

    def __init__(self, channels: int = 3, needs: str = '', fixed: int = 0) -> None:
        super().__init__()
        self.conv, self.side = nn.Conv2d(channels, 4, 3, 2, 1), nn.Conv2d(4, 2, 1)
        self.head = Head()
        self.flat = nn.Linear(4 * (fixed // 2) ** 2, 3) if fixed else None
        self.register_buffer('losses_seen', torch.zeros(()))
        self.needs = needs

    def forward(self, inputs, data_samples=None, mode='tensor'):
        y = self.conv(inputs)
        if self.flat is not None:
            self.flat(y.flatten(1))
        for sample in data_samples if self.needs else ():
            getattr(sample, self.needs)
        if mode == 'loss':
            self.losses_seen += 1
            y = self.side(self.conv(inputs))
            return dict(loss_own=y.mean())
        return self.head.forward(y)


class Head(nn.Module):
    """Its forward() is called directly, as MMSegmentation calls its heads'."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def odd(tap: str = 'conv.out', loss: str = 'FitNetLoss', kd: dict | None = None, **options):
    net = dict(type='kdmm.Odd', **options)
    losses = dict(f=dict(type=loss, on='f'))
    teacher = dict(model=net, random=True)
    return distill(net, teacher=teacher, taps=dict(f=tap), losses=losses, **(kd or {}))


@pytest.mark.parametrize('channels', [1, 3, 4, 12])
def test_images_have_the_channels_of_the_first_convolution(channels):
    assert input_channels(odd(channels=channels)) == channels


def test_the_preprocessor_knows_the_channels_better():
    """A network may add one to what it is given; a mean of one value is for all of them."""
    network = nn.Sequential(nn.Conv2d(4, 2, 1))
    network.data_preprocessor = ImgDataPreprocessor(mean=[1.0] * 3, std=[1.0] * 3)
    assert input_channels(network) == 3
    network.data_preprocessor = ImgDataPreprocessor(mean=[1.0], std=[1.0])
    assert input_channels(network) == 4
    assert input_channels(nn.Linear(2, 2)) == 3


@pytest.mark.parametrize('needs, tap', [('img_shape', 'head.inner.out'), ('boxes', 'conv.out')])
def test_samples_are_there_and_what_fails_behind_the_last_tap_does_not_matter(needs, tap):
    assert odd(tap, needs=needs).kd.teachers[0].mode == 'tensor'


def test_what_fails_before_a_tap_is_read_is_one_message():
    told = ('does not run on a blank image ', 'AttributeError', 'boxes')
    with refused(key='kd.probe_size', problem=told):
        odd('head.inner.out', needs='boxes')


def test_a_module_of_the_loss_pass_alone_is_read_there():
    """An auxiliary head; what the pass counts is put back."""
    net = odd('side.out')
    assert net.kd.teachers[0].mode == 'loss'
    assert net.losses_seen == 0 and net.kd.teachers[0].module.losses_seen == 0
    found = net.train()(torch.randn(2, 3, 8, 8), [None, None], mode='loss')
    assert float(found['kd.loss_f']) > 0


def test_a_module_whose_forward_is_called_directly_names_those_inside():
    with refused(problem="module 'head' of ", fix=('called directly', ' head.inner.out')):
        odd('head.out')


def test_a_module_that_never_runs_has_no_such_hint():
    with refused(problem="module 'data_preprocessor' ") as caught:
        odd('data_preprocessor.out')
    assert caught.value.fix == ''


def test_a_model_of_fixed_size_names_the_key_or_gets_its_size():
    told = ('the teacher (Odd)', '1x3x64x64')
    with refused(key='kd.probe_size', problem=told, fix='(height, width)'):
        odd('head.inner.out', fixed=32)
    odd('head.inner.out', fixed=32, kd=dict(probe_size=(32, 32)))
    odd('head.inner.out', fixed=32, kd=dict(crop_size=(32, 32)))  # tried after the small one


def test_a_codec_and_position_embeddings_say_the_size():
    """MMPose's codec says (width, height)."""
    network = nn.Module()
    network.head = SimpleNamespace(decoder=SimpleNamespace(input_size=(192, 256)))
    assert sizes_to_try(network) == [(256, 192)] and training_crop(network) == (256, 192)
    network = nn.Module()
    network.backbone = SimpleNamespace(img_size=[224, 224])
    assert sizes_to_try(network) == [(224, 224)]
    assert sizes_to_try(network, (32, 48)) == [(32, 48)]
    assert sizes_to_try(nn.Linear(1, 1), crop=(96, 96)) == [(64, 64), (96, 96)]


def test_calls_that_only_training_makes_are_refused_at_its_first_step():
    net = odd()
    with refused(problem="tap 'f' runs 2 time"):
        net.train()(torch.randn(2, 3, 8, 8), [None, None], mode='loss')


@pytest.mark.parametrize('key', ['probe_size', 'crop_size'])
@pytest.mark.parametrize(
    'value', [64, (0, 0), (64, -64), '64,64', (64, 64, 3), (64.5, 64), [True, 8]]
)
def test_sizes_that_are_none(key, value):
    kd = {**KD, key: value}
    with refused(key=f'kd.{key}', got=value, expected='(height, width)'):
        distill(build(tiny()), **kd)
