"""Normalization of images, as preprocessors have it and as their configs say it."""

import pytest
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from mmengine.registry import MODELS

from kdmm.utils.normalization import DIGITS, Normalization

RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


@pytest.mark.parametrize('order', ['bgr_to_rgb', 'to_rgb'])
def test_libraries_write_it_differently(order):
    ours = Normalization.of_config(RGB | {order: True})
    assert str(ours) == 'RGB, mean (123.675, 116.28, 103.53), std (58.395, 57.12, 57.375)'
    assert ours.same_as(
        Normalization.of_config(dict(type='Outer', data_preprocessor=RGB | {order: True}))
    )


@pytest.mark.parametrize(
    'other',
    [
        RGB,
        RGB | dict(to_rgb=True, std=[1, 1, 1]),
        RGB | dict(to_rgb=True, mean=[103.53, 116.28, 123.675]),
        dict(to_rgb=True),
        dict(to_rgb=True, mean=[123.675], std=[58.395]),
    ],
)
def test_each_part_counts(other):
    assert not Normalization.of_config(RGB | dict(to_rgb=True)).same_as(
        Normalization.of_config(other)
    )


def test_unknown_is_not_unnormalised():
    assert Normalization.of_config(None) is None
    assert Normalization.of_config(dict(mean='f()', std=None)) is None
    assert str(Normalization.of_config(dict(type='x'))) == 'BGR, 0 to 255'
    assert Normalization.of_config(dict(mean=0, std=255)).std == (255.0,)


@pytest.mark.parametrize(
    ('ours', 'theirs', 'tolerance', 'same'),
    [
        ({}, dict(mean=[0, 0, 0], std=[1, 1, 1]), 0, True),  # unchanged values, said otherwise
        (dict(mean=[5.0], std=[2.0]), dict(mean=[5, 5, 5], std=[2, 2, 2]), 0, True),
        (dict(mean=[5.0], std=[2.0]), dict(mean=[5, 5, 6], std=[2, 2, 2]), 0, False),
        (dict(mean=[5, 6], std=[2, 2]), dict(mean=[5, 6, 5], std=[2, 2, 2]), 0, False),
        (dict(mean=[123.675]), dict(mean=[123.68]), DIGITS, True),
        (dict(mean=[123.675]), dict(mean=[123.68]), 0, False),
        (dict(std=[58.395]), dict(std=[58.5]), DIGITS, False),
    ],
)
def test_one_number_stands_for_all_channels(ours, theirs, tolerance, same):
    first, second = (Normalization.of_config(config) for config in (ours, theirs))
    assert first.same_as(second, tolerance) is second.same_as(first, tolerance) is same


def test_padding_counts():
    assert not Normalization().same_as(Normalization(pad=1.0))


def test_a_preprocessor_and_its_config_say_the_same():
    image = ImgDataPreprocessor(**RGB, bgr_to_rgb=True)
    read, said = Normalization.of(image), Normalization.of_config(RGB | dict(bgr_to_rgb=True))
    assert read.same_as(said, DIGITS) and read.order == said.order == 'RGB'
    assert Normalization.of_config(said.as_config()) == said


def test_rgb_files_count_like_bgr_files():
    pytest.importorskip('mmseg')
    swap = dict(type='mmseg.SegDataPreProcessor', bgr_to_rgb=False, rgb_to_bgr=True, size=(8, 8))
    assert Normalization.of(MODELS.build(dict(swap, _scope_='mmseg'))).reverse


def test_preprocessors_of_other_libraries():
    plain = Normalization.of(BaseDataPreprocessor())
    assert plain == Normalization()
    image = ImgDataPreprocessor(mean=[1, 2, 3], std=[4, 5, 6], bgr_to_rgb=True, pad_value=7)
    read = Normalization.of(image)
    assert read.reverse and read.pad == 7 and read.mean == (1, 2, 3)


def test_mmpretrain_calls_it_to_rgb():
    pytest.importorskip('mmpretrain')
    config = dict(type='mmpretrain.ClsDataPreprocessor', mean=[1, 2, 3], std=[1, 1, 1], to_rgb=True)
    assert Normalization.of(MODELS.build(config)).reverse
