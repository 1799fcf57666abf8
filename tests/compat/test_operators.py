import importlib
import math
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from torch import Tensor

from kdmm.compat import setup
from kdmm.compat.operators import NAME, OperatorNotCompiledError, _OperatorFinder, _Operators

setup()
ops = pytest.importorskip('mmcv.ops', reason='mmcv is not installed')
served = isinstance(sys.modules[NAME], _Operators)
needs_served = pytest.mark.skipif(not served, reason='mmcv has compiled operators')


def naive_nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> list[int]:
    boxes = boxes.double()
    order = sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i))
    area = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    kept: list[int] = []
    for i in order:
        for j in kept:
            low = torch.maximum(boxes[i, :2], boxes[j, :2])
            high = torch.minimum(boxes[i, 2:], boxes[j, 2:])
            inter = (high - low + offset).clamp(min=0).prod()
            if inter / (area[i] + area[j] - inter) > threshold:
                break
        else:
            kept.append(i)
    return kept


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return image.new_zeros(image.shape[0])
    y, x = max(y, 0.0), max(x, 0.0)
    y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    fy, fx = (y - y0 if y1 > y0 else 0.0), (x - x0 if x1 > x0 else 0.0)
    top = image[:, y0, x0] * (1 - fx) + image[:, y0, x1] * fx
    bottom = image[:, y1, x0] * (1 - fx) + image[:, y1, x1] * fx
    return top * (1 - fy) + bottom * fy


def naive_roi_align(input, rois, size, scale, sampling, aligned):
    rows, columns = size
    shift = 0.5 if aligned else 0.0
    result = []
    for index, *corners in rois.tolist():
        left, top, right, bottom = (c * scale - shift for c in corners)
        width, height = right - left, bottom - top
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        grid_y = sampling or math.ceil(height / rows)
        grid_x = sampling or math.ceil(width / columns)
        for cell in range(rows * columns):
            row, column = divmod(cell, columns)
            total = input.new_zeros(input.shape[1])
            for k in range(grid_y * grid_x):
                i, j = divmod(k, grid_x)
                y = top + height / rows * (row + (i + 0.5) / grid_y)
                x = left + width / columns * (column + (j + 0.5) / grid_x)
                total = total + bilinear(input[int(index)], y, x)
            result.append(total / max(grid_y * grid_x, 1))
    return torch.stack(result).view(len(rois), rows, columns, -1).permute(0, 3, 1, 2)


def some_boxes(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    corner = torch.randint(0, 12, (count, 2), generator=generator)
    size = torch.randint(1, 12, (count, 2), generator=generator)
    scores = torch.rand(count, generator=generator)
    return torch.cat([corner, corner + size], 1).to(dtype), scores.to(dtype)


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.1, 0.45, 0.8])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_nms_equals_the_naive_one(offset, threshold, dtype):
    boxes, scores = some_boxes(60, dtype)
    dets, kept = ops.nms(boxes, scores, threshold, offset=offset)
    expected = naive_nms(boxes, scores, threshold, offset)
    assert kept.dtype == torch.int64 and kept.tolist() == expected
    assert 1 < len(expected) < 60
    torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


def test_nms_offset_changes_the_result():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 1, 2, 3]])  # IoU 1/3 with offset 0, 1/2 with 1
    scores = torch.tensor([0.9, 0.8])
    assert ops.nms(boxes, scores, 0.4, offset=0)[1].tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.4, offset=1)[1].tolist() == [0]
    assert boxes[0].tolist() == [0, 0, 2, 2], 'the input was changed'


def test_nms_keeps_a_box_at_the_threshold():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1]])  # IoU exactly 1/2
    assert ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5)[1].tolist() == [0, 1]


@pytest.mark.parametrize('offset', [0, 1])
def test_nms_score_ties_keep_the_first(offset):
    boxes, _ = some_boxes(30)
    scores = torch.full((30,), 0.5)
    kept = ops.nms(boxes, scores, 0.3, offset=offset)[1].tolist()
    assert kept == naive_nms(boxes, scores, 0.3, offset)


def test_nms_empty_and_single():
    dets, kept = ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5) and kept.shape == (0,) and kept.dtype == torch.int64
    assert ops.nms(torch.rand(1, 4), torch.rand(1), 0.5, offset=1)[1].tolist() == [0]


def test_nms_score_threshold_maximum_and_numpy():
    boxes, scores = some_boxes(40)
    expected = [i for i in naive_nms(boxes, scores, 0.5, 0) if scores[i] > 0.3][:4]
    arrays = ops.nms(boxes.numpy(), scores.numpy(), 0.5, score_threshold=0.3, max_num=4)
    assert arrays[1].tolist() == expected


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_nms_of_half_precision(dtype):
    boxes, scores = some_boxes(30)
    half = scores.to(dtype)
    kept = ops.nms(boxes.to(dtype), half, 0.5)[1].tolist()
    assert kept == naive_nms(boxes, half, 0.5, 0)


def test_batched_nms_separates_the_classes():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0])
    kept = ops.batched_nms(boxes, scores, classes, dict(type='nms', iou_threshold=0.5))[1]
    assert kept.tolist() == [0, 1]


ROIS = torch.tensor(
    [
        [0, 1.3, 0.7, 9.1, 7.9],
        [1, -2.0, -1.0, 3.3, 2.2],
        [0, 4.0, 4.0, 4.2, 4.3],
        [1, 6.0, 5, 15, 14],
    ],
    dtype=torch.float64,
)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling', [0, 2])
@pytest.mark.parametrize('scale', [1.0, 0.5])
def test_roi_align_equals_the_naive_one(aligned, sampling, scale):
    torch.manual_seed(0)
    image = torch.randn(2, 3, 9, 10, dtype=torch.float64)
    output = ops.roi_align(image, ROIS, (2, 3), scale, sampling, 'avg', aligned)
    expected = naive_roi_align(image, ROIS, (2, 3), scale, sampling, aligned)
    torch.testing.assert_close(output, expected)
    single = ops.roi_align(image.float(), ROIS.float(), (2, 3), scale, sampling, 'avg', aligned)
    torch.testing.assert_close(single, expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling', [0, 2])
def test_roi_align_gradient(aligned, sampling):
    torch.manual_seed(0)
    image = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(ROIS), 2, 2, 3, dtype=torch.float64)
    output = ops.roi_align(image, ROIS, (2, 3), 0.5, sampling, 'avg', aligned)
    (gradient,) = torch.autograd.grad((output * weight).sum(), image)
    naive = naive_roi_align(image, ROIS, (2, 3), 0.5, sampling, aligned)
    (expected,) = torch.autograd.grad((naive * weight).sum(), image)
    torch.testing.assert_close(gradient, expected)
    assert expected.abs().sum() > 0


def test_roi_align_gradcheck():
    image = torch.randn(2, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ops.roi_align(x, ROIS, 2, 0.5, 2, 'avg', True), image)


def test_roi_align_without_regions():
    image = torch.randn(2, 3, 6, 7, requires_grad=True)
    output = ops.roi_align(image, torch.zeros(0, 5), (2, 3), 1.0, 0, 'avg', True)
    assert output.shape == (0, 3, 2, 3)
    output.sum().backward()
    assert image.grad.abs().sum() == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_roi_align_of_half_precision(dtype):
    torch.manual_seed(0)
    image = torch.randn(2, 3, 9, 10).to(dtype).requires_grad_()
    output = ops.roi_align(image, ROIS.to(dtype), (2, 3), 1.0, 2, 'avg', True)
    assert output.dtype == dtype
    expected = naive_roi_align(image.detach().double(), ROIS.to(dtype).double(), (2, 3), 1, 2, True)
    torch.testing.assert_close(output.double(), expected, rtol=1e-2, atol=1e-2)
    output.sum().backward()
    assert image.grad.dtype == dtype and image.grad.isfinite().all()


@needs_served
def test_maximum_pooling_is_refused():
    with pytest.raises(OperatorNotCompiledError, match=r"roi_align\(pool_mode='max'\)"):
        ops.roi_align(torch.zeros(1, 1, 4, 4), ROIS.float(), 2, 1.0, 2, 'max', True)


@needs_served
def test_an_unserved_operator_is_named_with_its_remedy():
    with pytest.raises(OperatorNotCompiledError, match="'softnms'") as error:
        ops.soft_nms(torch.rand(3, 4), torch.rand(3))
    for part in ('--no-build-isolation', '--no-cache-dir', 'C++20', 'issue 3341'):
        assert part in str(error.value)
    with pytest.raises(OperatorNotCompiledError, match="'deform_conv_forward'"):
        ops.deform_conv2d(torch.rand(1, 1, 5, 5), torch.rand(1, 18, 3, 3), torch.rand(1, 1, 3, 3))


@needs_served
def test_the_environment_report_does_not_fail():
    from mmcv.utils import collect_env

    assert 'kdmm' in collect_env()['MMCV Compiler']


def test_compiled_operators_win(monkeypatch):
    """A finder that knows ``mmcv._ext`` is asked before kdmm's."""

    class Compiled(_OperatorFinder):
        def create_module(self, spec):
            return ModuleType(spec.name, 'compiled')

        def find_spec(self, fullname, path, target=None):
            return ModuleSpec(NAME, self) if fullname == NAME else None

    mine = next(i for i, f in enumerate(sys.meta_path) if isinstance(f, _OperatorFinder))
    finders = [*sys.meta_path[:mine], Compiled(), *sys.meta_path[mine:]]
    monkeypatch.delitem(sys.modules, NAME)
    monkeypatch.setattr(sys, 'meta_path', finders)
    monkeypatch.setattr(sys.modules['mmcv'], '_ext', None, raising=False)
    assert importlib.import_module(NAME).__doc__ == 'compiled'


def test_installing_twice_adds_one_finder():
    setup()
    assert sum(isinstance(finder, _OperatorFinder) for finder in sys.meta_path) == 1
