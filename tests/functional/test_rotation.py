"""The rotation task, by worked examples."""

import pytest
import torch

from kdmm.functional import ROTATIONS, class_marginals, joint_labels, rotations, unrotated


def test_order_and_direction():
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    views = rotations(torch.stack([image, 10 * image])[:, None])
    expected = torch.tensor(
        [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    )
    assert views.shape == (8, 1, 2, 2)
    assert torch.equal(views[:4, 0], expected.float())
    assert torch.equal(views[4:, 0], 10 * expected.float())


def test_channels_turn_together():
    image = torch.arange(27.0).reshape(1, 3, 3, 3)
    views = rotations(image)
    for turns in range(ROTATIONS):
        assert torch.equal(views[turns], torch.rot90(image[0], turns, (1, 2)))


def test_unrotated_rows_are_the_images():
    images = torch.rand(3, 3, 5, 5)
    assert torch.equal(unrotated(rotations(images)), images)


def test_joint_labels_are_class_major():
    assert joint_labels(torch.tensor([7, 9])).tolist() == [28, 29, 30, 31, 36, 37, 38, 39]


def test_class_marginals_add_raw_logits():
    logits = torch.arange(8.0)[None] ** 2
    assert class_marginals(logits).tolist() == [[0 + 1 + 4 + 9, 16 + 25 + 36 + 49]]


@pytest.mark.parametrize('shape', [(1, 3, 4, 5), (2, 3, 32, 16)])
def test_refuses_what_is_not_square(shape):
    with pytest.raises(ValueError, match=f'square images, got {shape[2]}x{shape[3]}'):
        rotations(torch.zeros(shape))


def test_gradient_reaches_the_images():
    images = torch.rand(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotations(x) ** 2, images)
