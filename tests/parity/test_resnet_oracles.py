"""MMDetection's ResNets against sums that the methods' authors' code gives, too."""

import math

import pytest
import torch
from torch import Tensor

pytest.importorskip('mmdet')

import kdmm  # noqa: E402, F401  (before the libraries)
from tests.transfer.nets import build  # noqa: E402

SUMS = {
    18: (279878.8330, 68085.3068, 34243.6670, 17186.9423),
    34: (319874.4580, 118561.4084, 87555.6104, 23662.5669),
    50: (725141.4384, 464588.8094, 341014.4360, 92185.4018),
}
CAFFE = (725141.4384, 464912.3897, 342910.2411, 92828.8871)
#: all of the backbone, with the classifier of 1000, frozen by frozen_stages=1
PARAMETERS = {
    18: (11_176_512, 11_689_512, 157_504),
    34: (21_284_672, 21_797_672, 231_488),
    50: (23_508_032, 25_557_032, 225_344),
}


def fix(shape: tuple[int, ...] | list[int], s: int = 0) -> Tensor:
    """Numbers that depend on the shape alone: quadratic residues, of variance about one."""
    k = torch.arange(math.prod(shape)) + 100003 * s
    u = (7919 * k * k + 104729 * k + 12345) % 65537
    return (math.sqrt(12) * (u.double() / 65537 - 0.5)).view(*shape)


def stages(depth: int, style: str) -> tuple[Tensor, ...]:
    config = dict(type='ResNet', depth=depth, style=style, norm_eval=False, frozen_stages=-1)
    net = build('mmdet', config).double()
    net.train()  # returns nothing
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.dim() > 1:
                value.copy_(fix(tuple(value.shape)) * math.sqrt(2 / value[0].numel()))
            else:
                value.fill_(float(name.endswith('weight')))
        return net(fix([2, 3, 128, 160]))


def test_the_fill():
    assert fix([2]).tolist() == pytest.approx([-1.0795288057, 1.4106262394], abs=1e-9)


@pytest.mark.parametrize('depth', SUMS)
def test_sums_of_the_stages(depth):
    found = stages(depth, 'pytorch')
    width = 64 if depth < 50 else 256
    sizes = [(2, width << i, 32 >> i, 40 >> i) for i in range(4)]
    assert [tuple(x.shape) for x in found] == sizes
    assert [x.sum().item() for x in found] == pytest.approx(SUMS[depth], abs=2e-4)


def test_another_style_is_another_network():
    found = [x.sum().item() for x in stages(50, 'caffe')]
    assert found == pytest.approx(CAFFE, abs=2e-4)
    assert found[1:] != pytest.approx(SUMS[50][1:], rel=1e-4)


@pytest.mark.parametrize('depth', PARAMETERS)
def test_numbers_of_parameters(depth):
    whole, classifier, frozen = PARAMETERS[depth]
    net = build('mmdet', dict(type='ResNet', depth=depth, frozen_stages=1))
    assert len(net.state_dict()) == {18: 120, 34: 216, 50: 318}[depth]
    assert sum(x.numel() for x in net.parameters()) == whole
    assert whole + 1000 * (512 if depth < 50 else 2048) + 1000 == classifier
    assert sum(x.numel() for x in net.parameters() if not x.requires_grad) == frozen
