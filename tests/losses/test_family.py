"""Properties that every segmentation loss must have: a table of losses, a test a property."""

import inspect

import pytest
import torch
from oracles import gen, lab, value_and_grad

from kdmm import losses
from kdmm.losses import (
    ATLoss,
    BinaryKDLoss,
    CIRKDChannelLoss,
    CIRKDMemoryLoss,
    CIRKDMiniBatchLoss,
    CSDLoss,
    CWDLoss,
    DistillLoss,
    FitNetLoss,
    IFVDLoss,
    KDLoss,
    PSDLoss,
    SKDLoss,
)
from kdmm.registry import MODELS
from tests.errors import refused, unfit
from tests.versions import cpu_autocast

SIZE = (4, 6)
CLASSES = 5
# name: loss, channels of the student's and the teacher's maps
FAMILY = {
    'kd': (KDLoss(), (5, 5)),
    'kd, valid': (KDLoss(valid_only=True), (5, 5)),
    'binary': (BinaryKDLoss(), (5, 5)),
    'binary, valid': (BinaryKDLoss(valid_only=True), (5, 5)),
    'binary, foreground': (BinaryKDLoss(positions='foreground', threshold=0.7), (5, 5)),
    'binary, confidence': (BinaryKDLoss(positions='confidence', valid_only=True), (5, 5)),
    'at': (ATLoss(), (6, 10)),
    'fitnet': (FitNetLoss(), (6, 6)),
    'fitnet, valid': (FitNetLoss(valid_only=True), (6, 6)),
    'cwd': (CWDLoss(), (6, 6)),
    'skd': (SKDLoss(), (6, 10)),
    'skd, streamed': (SKDLoss(form='streamed'), (6, 10)),
    'skd, gram': (SKDLoss(form='gram'), (6, 10)),
    'skd, original': (SKDLoss(scale=0.5, detach_norm=True), (6, 10)),
    'ifvd': (IFVDLoss(CLASSES), (6, 10)),
    'ifvd, valid': (IFVDLoss(CLASSES, valid_only=True), (6, 10)),
    'csd': (CSDLoss(), (5, 5)),
}
LABELLED = [name for name, (loss, _) in FAMILY.items() if 'labels' in loss.needs]
#: Losses whose value at 60000 in half precision and 19, 150 or 171 classes is looked at.
ON_LOGITS = {
    'kd': lambda temperature, classes: KDLoss(temperature),
    'kd, valid': lambda temperature, classes: KDLoss(temperature, valid_only=True),
    'binary': lambda temperature, classes: BinaryKDLoss(temperature),
    'binary, valid': lambda temperature, classes: BinaryKDLoss(
        temperature, True, positions='confidence'
    ),
    'cwd': lambda temperature, classes: CWDLoss(temperature),
    'csd': lambda temperature, classes: CSDLoss(temperature),
}
ON_FEATURES = {
    'at': lambda classes: ATLoss(),
    'at, image': lambda classes: ATLoss('image'),
    'fitnet': lambda classes: FitNetLoss(),
    'fitnet, valid': lambda classes: FitNetLoss(valid_only=True),
    'skd': lambda classes: SKDLoss(),
    'skd, streamed': lambda classes: SKDLoss(form='streamed'),
    'skd, gram': lambda classes: SKDLoss(form='gram'),
    'skd, original': lambda classes: SKDLoss(scale=0.5, detach_norm=True),
    'ifvd': lambda classes: IFVDLoss(classes),
    'ifvd, valid': lambda classes: IFVDLoss(classes, valid_only=True),
}


def pair(channels):
    return gen((2, channels[0], *SIZE), 0.3).requires_grad_(), gen((2, channels[1], *SIZE), 1.1)


def context(loss, labels=None):
    labels = lab(2, 8, 12, CLASSES) if labels is None else labels
    return dict(labels=labels) if 'labels' in loss.needs else {}


@pytest.mark.parametrize('name', FAMILY)
class TestEachLoss:
    def test_teacher_is_detached_and_roles_are_not_alike(self, name):
        loss, channels = FAMILY[name]
        student, teacher = pair(channels)
        teacher.requires_grad_()
        value = loss(student, teacher, **context(loss))
        value.backward()
        assert value.shape == () and value > 0 and value.dtype == torch.float64
        assert teacher.grad is None and student.grad.norm() > 0

    def test_zero_at_identity(self, name):
        loss, channels = FAMILY[name]
        student, _ = pair((channels[0],) * 2)
        value, grad = value_and_grad(loss(student, student, **context(loss)), student)
        assert value.abs() < 1e-15 and grad.norm() < 1e-13

    def test_gradcheck(self, name):
        loss, channels = FAMILY[name]
        student, teacher = pair(channels)
        student = student[:1, :, :2, :4].detach().requires_grad_()
        teacher, labels = teacher[:1, :, :2, :4], lab(1, 4, 8, CLASSES)
        given = context(loss, labels)
        whole = torch.autograd.gradcheck(
            lambda s: 1e3 * loss(s, teacher, **given), student, atol=1e-4, raise_exception=False
        )
        assert whole == (name != 'skd, original')  # which leaves the norm out, by declaration

    def test_check_refuses_what_forward_does(self, name):
        loss, channels = FAMILY[name]
        student, teacher = pair(channels)
        loss.check(student[:1], teacher[:1])
        for call in (lambda *a: loss(*a, **context(loss)), loss.check):
            small = teacher[:, :, :2]
            for mismatch, mine, theirs in (
                ('resolution', student, small),
                ('images', student, teacher[:1]),
                ('form', student[0], teacher[0]),
            ):
                shapes = dict(student=tuple(mine.shape), teacher=tuple(theirs.shape))
                with unfit(mismatch, **shapes):
                    call(mine, theirs)

    def test_no_host_sync(self, name):
        """On 'meta' tensors anything that reads a value fails."""
        loss, channels = FAMILY[name]
        student, teacher = (torch.empty(2, c, *SIZE, device='meta') for c in channels)
        given = context(loss, torch.empty(2, 8, 12, device='meta').long())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr('kdmm.losses.checks.check_labels', lambda *_: None)  # the first batch's
            loss(student.requires_grad_(), teacher, **given).backward()
        assert student.grad.shape == student.shape


@pytest.mark.parametrize('name', LABELLED)
class TestEachLossWithLabels:
    def test_labels_are_asked_for(self, name):
        loss, channels = FAMILY[name]
        with unfit('labels', problem='needs labels (B, H, W)'):
            loss(*pair(channels), labels=None)
        with unfit('labels', labels=(2, 1, 8, 12)):
            loss(*pair(channels), labels=torch.zeros(2, 1, 8, 12))

    def test_the_name_of_the_ignored_label_does_not_matter(self, name):
        loss, channels = FAMILY[name]
        student, teacher = pair(channels)
        labels = lab(2, 8, 12, CLASSES)
        expected = loss(student, teacher, labels=labels).item()
        try:
            for value in (-1, CLASSES, 254):
                loss.ignore_index = value
                renamed = labels.masked_fill(labels == 255, value)
                assert loss(student, teacher, labels=renamed).item() == expected
        finally:
            loss.ignore_index = 255

    def test_the_ignored_label_may_be_one_of_the_classes(self, name):
        loss, channels = FAMILY[name]
        student, teacher = pair(channels)
        labels = lab(2, 8, 12, CLASSES)
        expected = loss(student, teacher, labels=labels.masked_fill(labels == 1, 255)).item()
        try:
            loss.ignore_index = 1
            inside = labels.masked_fill(labels == 255, 1)
            assert loss(student, teacher, labels=inside).item() == expected
        finally:
            loss.ignore_index = 255

    def test_ignored_pixels_have_no_say(self, name):
        loss, channels = FAMILY[name]
        student, teacher = pair(channels)
        labels = lab(2, 8, 12, CLASSES)
        ignored = (labels[:, ::2, ::2] == 255)[:, None]
        assert 0 < ignored.sum() < ignored.numel()
        value, grad = value_and_grad(loss(student, teacher, labels=labels), student)
        changed = (torch.where(ignored, 3 - 7 * x.detach(), x.detach()) for x in (student, teacher))
        assert loss(*changed, labels=labels).item() == value.item()
        assert grad[ignored.expand_as(grad)].abs().max() == 0

    def test_all_ignored_is_exactly_zero_and_connected(self, name):
        loss, channels = FAMILY[name]
        student, teacher = pair(channels)
        nothing = torch.full((2, 8, 12), 255)
        value, grad = value_and_grad(loss(student, teacher, labels=nothing), student)
        assert value == 0 and grad.abs().max() == 0


def extreme(channels, dtype):
    """Maps up to 60000 in magnitude with some all-zero pixels, channels and positions."""
    torch.manual_seed(0)
    maps = []
    for _ in range(2):
        x = torch.randn(2, channels, 8, 8)
        x = x * (60000 / x.abs().amax())
        x[0, :, 3, 3], x[1, :, :2], x[0, 1] = 0, 0, 0
        maps.append(x)
    maps[1][1, :, 5, 5] = 0
    maps[0][0, 0, 0, 0], maps[1][0, 0, 0, 0] = 60000, -60000
    return maps[0].to(dtype).requires_grad_(), maps[1].to(dtype)


def finite(loss, student, teacher, dtype, classes):
    with cpu_autocast(dtype):
        value = loss(student, teacher, **context(loss, lab(2, 16, 16, classes)))
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and value >= 0
    assert student.grad.dtype == student.dtype and student.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('classes', [19, 150, 171])
class TestFinite:
    @pytest.mark.parametrize('temperature', [1.0, 2.0, 4.0, 8.0])
    @pytest.mark.parametrize('name', ON_LOGITS)
    def test_logits(self, name, temperature, classes, dtype):
        loss = ON_LOGITS[name](temperature, classes)
        for storage in (dtype, torch.float32):
            finite(loss, *extreme(classes, storage), dtype, classes)  # type: ignore[call-arg]

    @pytest.mark.parametrize('name', ON_FEATURES)
    def test_features(self, name, classes, dtype):
        loss = ON_FEATURES[name](classes)
        for storage in (dtype, torch.float32):
            for relu in (False, True):
                student, teacher = extreme(16, storage)
                if relu:
                    student = student.detach().relu().requires_grad_()
                    teacher = teacher.relu()
                finite(loss, student, teacher, dtype, classes)

    def test_layers(self, classes, dtype):
        for reduction in ('mean', 'image'):
            maps = [extreme(c, dtype) for c in (16, classes)]
            student, teacher = zip(*maps, strict=True)
            with cpu_autocast(dtype):
                value = PSDLoss(reduction)(student, teacher)
            value.backward()
            assert value.isfinite() and value.dtype == torch.float32
            assert all(x.grad.isfinite().all() for x in student)


@pytest.mark.parametrize('name', [*ON_FEATURES])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_all_zero_maps_have_finite_gradients(name, dtype):
    student = torch.zeros(2, 16, 8, 8, dtype=dtype).requires_grad_()
    teacher = torch.randn(2, 16, 8, 8).relu().to(dtype)
    finite(ON_FEATURES[name](5), student, teacher, dtype, 5)


def test_class_attributes_that_the_distiller_reads():
    bases = {
        'BankLoss',
        'BankNCELoss',
        'Batch',
        'BatchRelationLoss',
        'DistillLoss',
        'LayerMatching',
        'OwnedOptimizer',
    }
    registered = set(losses.__all__) - bases
    for name in registered:
        cls = getattr(losses, name)
        assert MODELS.get(f'kdmm.{name}') is cls
        assert issubclass(cls, DistillLoss)
        assert 'weight' not in inspect.signature(cls).parameters
    stepping = {
        name
        for name in registered
        if getattr(losses, name).after_step is not DistillLoss.after_step
    }
    assert stepping == {
        'AdversarialLoss',
        'CRDLoss',
        'LMCLBankLoss',
        'MCLBankLoss',
        'MCLOKDLoss',
    }
    assert all(getattr(losses, n).stateful or getattr(losses, n).one_activation for n in stepping)
    assert CIRKDMemoryLoss.stateful and CIRKDChannelLoss.stateful
    assert not CIRKDMiniBatchLoss.stateful and not KDLoss.stateful


@pytest.mark.parametrize('cls', [CIRKDMemoryLoss, CIRKDMiniBatchLoss])
def test_cirkd_checks_without_labels_and_without_state(cls):
    loss = cls(6, 10, 3) if cls is CIRKDMemoryLoss else cls()
    before = {k: v.clone() for k, v in loss.state_dict().items()}
    loss.check(torch.zeros(1, 6, 4, 6), torch.zeros(1, 10, 4, 6))
    assert all(torch.equal(v, loss.state_dict()[k]) for k, v in before.items())
    with unfit('resolution', student=(1, 6, 4, 6), teacher=(1, 10, 8, 12)):
        loss.check(torch.zeros(1, 6, 4, 6), torch.zeros(1, 10, 8, 12))


@pytest.mark.parametrize('cls', [CWDLoss, FitNetLoss])
def test_other_channels_need_a_connector(cls):
    student, teacher = pair((6, 10))
    for call in (cls(), cls().check):
        with unfit('channels', student=(2, 6, 4, 6), teacher=(2, 10, 4, 6)):
            call(student, teacher)


def test_other_class_counts_are_refused():
    with unfit('classes', student=(2, 5, 4, 6), teacher=(2, 6, 4, 6)):
        CSDLoss()(*pair((5, 6)))


def test_cwd_normalizer():
    student, teacher = pair((6, 6))
    plain = CWDLoss()(student, teacher)
    torch.testing.assert_close(CWDLoss(4.0, 'student', 3)(student, teacher), 2 * plain)
    assert torch.equal(CWDLoss(tap_channels=3)(student, teacher), plain)
    with refused(key='tap_channels', got=None, expected="for normalizer='student'"):
        CWDLoss(normalizer='student')
    with refused(key='normalizer', got='teacher', expected="'compared' or 'student'"):
        CWDLoss(normalizer='teacher')
    with unfit('one pixel'):
        CWDLoss()(student[..., :1, :1], teacher[..., :1, :1])


def test_temperatures_are_plain_numbers_that_may_change():
    for cls in (CWDLoss, CSDLoss):
        loss = cls(temperature=1.0)
        before = loss(*pair((5, 5)))
        loss.temperature = 2.0
        assert torch.equal(loss(*pair((5, 5))), cls(temperature=2.0)(*pair((5, 5))))
        assert loss(*pair((5, 5))) != before


def test_foreign_labels_are_refused():
    labels = lab(2, 8, 12, CLASSES)
    labels[0, 3, 3] = 7
    with pytest.raises(ValueError, match='value 7, but there are 5 classes'):
        IFVDLoss(CLASSES)(*pair((6, 10)), labels=labels)


def test_ifvd_denominator():
    student, teacher = pair((6, 10))
    labels = lab(2, 8, 12, CLASSES)
    share = (labels[:, ::2, ::2] != 255).double().mean()
    every, valid = (
        IFVDLoss(CLASSES, valid_only=flag)(student, teacher, labels=labels)
        for flag in (False, True)
    )
    torch.testing.assert_close(every, valid * share)


@pytest.mark.parametrize('bad', [dict(form='fast'), dict(patch=0), dict(scale=0.0)])
def test_skd_refuses(bad):
    ((key, value),) = bad.items()
    with refused(key=key, got=value):
        SKDLoss(**bad)


@pytest.mark.parametrize('cls', [ATLoss, PSDLoss])
def test_reduction_is_refused_at_construction(cls):
    assert cls('image').reduction == 'image'
    with refused(key='reduction', got='sum', expected="'mean' or 'image'"):
        cls('sum')


class TestLayers:
    def maps(self):
        student = tuple(gen((2, c, *SIZE), 0.3 + c) for c in (5, 6, 3))
        return student, tuple(gen((2, c, *SIZE), 1.1 + c) for c in (4, 10, 3))

    def test_refusals(self):
        student, teacher = self.maps()
        small = teacher[1][:, :, :2]
        cases = [
            (student, teacher[:2], 'form', 'numbers of maps differ'),
            (student[:1], teacher[:1], 'layers', 'two maps or more'),
            (
                (student[0], student[1], student[0]),
                teacher,
                'layers',
                'student gives one map twice',
            ),
            (
                student,
                (teacher[1], teacher[1], teacher[2]),
                'layers',
                'teacher gives one map twice',
            ),
            (student, (teacher[0], small, teacher[2]), 'form', 'resolutions of the teacher differ'),
            (student[0], teacher[0], 'layers', 'a sequence of maps'),
            (student, tuple(x[:1] for x in teacher), 'images', ''),
            (student, tuple(x[:, :, :2] for x in teacher), 'resolution', ''),
        ]
        for mine, theirs, mismatch, text in cases:
            for call in (PSDLoss(), PSDLoss().check):
                with unfit(mismatch, problem=text):
                    call(mine, theirs)

    def test_teachers_are_detached(self):
        student, teacher = self.maps()
        leaves = [x.requires_grad_() for x in (*student, *teacher)]
        PSDLoss()(student, teacher).backward()
        assert all((x.grad is None) == (i > 2) for i, x in enumerate(leaves))
