"""Normalisation of images."""

import pytest

from kdmm.pretrained.inputs import Normalisation, compare_inputs

RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


@pytest.mark.parametrize('order', ['bgr_to_rgb', 'to_rgb'])
def test_libraries_write_it_differently(order):
    ours = Normalisation.of(RGB | {order: True})
    assert str(ours) == 'RGB, mean (123.675, 116.28, 103.53), std (58.395, 57.12, 57.375)'
    assert ours.same_as(Normalisation.of(dict(type='Outer', data_preprocessor=RGB | {order: True})))


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
    assert not Normalisation.of(RGB | dict(to_rgb=True)).same_as(Normalisation.of(other))


def test_unknown_is_not_unnormalised():
    assert Normalisation.of(None) is None
    assert Normalisation.of(dict(mean='f()', std=None)) is None
    assert str(Normalisation.of(dict(type='x'))) == 'BGR, 0 to 255'
    assert Normalisation.of(dict(mean=0, std=255)).std == (255.0,)


def test_the_line():
    ours, theirs = Normalisation.of(RGB | dict(to_rgb=True)), Normalisation.of(RGB)
    assert compare_inputs(ours, ours, True).endswith('in source and target')
    assert compare_inputs(ours, theirs, True).startswith('warning: trained on RGB, ')
    assert 'the target config prepares BGR' in compare_inputs(ours, theirs, True)
    assert compare_inputs(ours, None, True).startswith('warning')
    assert compare_inputs(ours, None, False).endswith('prepare the images of the target alike')
    assert 'does not say' in compare_inputs(None, theirs, True)
