import pytest
import torch

from kdmm.distillers import ConfigError, distill
from kdmm.distillers.probe import scaled, training_crop
from kdmm.registry import MODELS
from tests.distillers.tiny_models import KD, build, segmentor, tiny


@MODELS.register_module(force=True)
class Checked(torch.nn.Module):
    """Notes what it was checked with; needs maps of 32 x 32."""

    seen: list = []

    def check(self, student: torch.Tensor, teacher: torch.Tensor) -> None:
        self.seen.append((tuple(student.shape), tuple(teacher.shape)))
        if min(student.shape[2:]) < 32:
            raise ValueError(
                f'at least 32 x 32, not {tuple(student.shape)}, {tuple(teacher.shape)}'
            )

    def forward(self, student: torch.Tensor, teacher: torch.Tensor, **_: object) -> torch.Tensor:
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
    with pytest.raises(ConfigError) as info:
        make((128, 512), probe_size=(32, 64))
    info.match(r"kd\.losses\.c on tap 'logits': .*\(1, 3, 16, 64\), \(1, 3, 16, 64\).*128x512$")


def test_where_the_crop_is_not_known_the_probe_stands_for_it():
    with pytest.raises(ConfigError, match='crop of 64x64.*kd.probe_size'):
        make(None, probe_size=(64, 64))
    make(None, probe_size=(256, 256))


def test_it_needs_no_memory():
    made = make((256, 512))
    assert made is not None
    from kdmm.distillers.probe import probe

    found = probe(made, made.kd.student_taps, made.kd.teachers[0], (64, 64))
    for blank in found.pairs['logits']:
        assert blank.untyped_storage().nbytes() == 4
