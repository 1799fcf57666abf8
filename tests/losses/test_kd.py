import itertools

import pytest
import torch
from oracles import gen, lab

from kdmm.losses import BinaryKDLoss, KDLoss
from kdmm.registry import MODELS
from tests.errors import refused, unfit


def test_registered_and_needs():
    assert isinstance(MODELS.build(dict(type='kdmm.KDLoss')), KDLoss)
    assert KDLoss().needs == () and KDLoss(valid_only=True).needs == ('labels',)


def test_all_pixels_by_default_ignored_ones_left_out_on_request():
    student, teacher = gen((2, 5, 4, 6), 0.3), gen((2, 5, 4, 6), 1.1)
    labels = lab(2, 8, 12, 5)
    log_s, log_t = student.log_softmax(1), teacher.log_softmax(1)
    pixel = (log_t.exp() * (log_t - log_s)).sum(1)
    torch.testing.assert_close(KDLoss()(student, teacher, labels=labels), pixel.mean())
    valid = labels[:, ::2, ::2] != 255
    assert 0 < valid.sum() < valid.numel()
    loss = KDLoss(valid_only=True)(student, teacher, labels=labels)
    torch.testing.assert_close(loss, pixel[valid].mean())


def test_all_ignored_is_exactly_zero():
    student = gen((2, 5, 4, 6), 0.3).requires_grad_()
    loss = KDLoss(valid_only=True)(student, student.detach() + 1, torch.full((2, 8, 12), 255))
    loss.backward()
    assert loss == 0 and student.grad.abs().max() == 0


def test_the_temperature_is_a_plain_number_that_may_change():
    loss = KDLoss(temperature=1.0)
    student, teacher = gen((1, 5, 2, 3), 0.3), gen((1, 5, 2, 3), 1.1)
    before = loss(student, teacher)
    loss.temperature = 4.0
    torch.testing.assert_close(loss(student, teacher), KDLoss(temperature=4.0)(student, teacher))
    assert loss(student, teacher) != before


@pytest.mark.parametrize(
    'student, teacher, mismatch, fix',
    [
        ((2, 5, 4, 6), (2, 6, 4, 6), 'classes', ''),
        ((2, 5, 4, 6), (2, 5, 8, 12), 'resolution', ''),
        ((2, 5, 4, 6), (1, 5, 4, 6), 'images', ''),
        ((2, 1, 4, 6), (2, 1, 4, 6), 'one class', ('out_channels=2', 'BinaryKDLoss')),
        ((2, 5, 4), (2, 5, 4), 'form', 'dim=-1'),
    ],
)
def test_refusals_show_both_shapes(student, teacher, mismatch, fix):
    with unfit(mismatch, student=student, teacher=teacher, fix=fix):
        KDLoss()(torch.zeros(student), torch.zeros(teacher))


def test_labels_are_asked_for():
    x = torch.zeros(2, 5, 4, 6)
    with unfit('labels', problem='needs labels (B, H, W)'):
        KDLoss(valid_only=True)(x, x)
    with unfit('labels', labels=(2, 1, 8, 12)):
        KDLoss(valid_only=True)(x, x, labels=torch.zeros(2, 1, 8, 12))


def test_a_classifiers_logits_are_maps_of_one_pixel() -> None:
    student, teacher = gen((3, 5), 0.3), gen((3, 5), 1.1)
    expected = KDLoss(temperature=2.0)(student[..., None, None], teacher[..., None, None])
    assert torch.equal(KDLoss(temperature=2.0)(student, teacher), expected)


class TestClassesLast:
    """Heads of SimCC: K keypoints with W bins each, (B, K, W)."""

    weights = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.5, 0.0]], dtype=torch.float64)

    def pair(self):
        return gen((2, 3, 8), 0.3).requires_grad_(), gen((2, 3, 8), 1.1)

    def rows(self, temperature):
        """KL of each keypoint, bin by bin."""
        student, teacher = (x.detach() for x in self.pair())
        out = torch.zeros(2, 3, dtype=torch.float64)
        for b in range(2):
            for k in range(3):
                s, t = ((x[b, k] / temperature).exp() for x in (student, teacher))
                for p, q in zip(s / s.sum(), t / t.sum(), strict=True):
                    out[b, k] += q * (q.log() - p.log())
        return out

    def test_every_keypoint_by_default(self):
        """As DWPose, whose beta 10 is 1 / T and which has no factor T^2."""
        loss = KDLoss(temperature=0.1, dim=-1)
        assert loss.needs == ()
        torch.testing.assert_close(loss(*self.pair()), self.rows(0.1).mean() / 100)

    def test_visible_ones_on_request(self):
        loss = KDLoss(temperature=0.5, dim=-1, visible_only=True)
        assert loss.needs == ('keypoint_weights',)
        student, teacher = self.pair()
        value = loss(student, teacher, keypoint_weights=self.weights)
        expected = (self.rows(0.5) * self.weights).sum() / 2.5 * 0.25
        torch.testing.assert_close(value, expected)
        value.backward()
        alive = student.grad.norm(dim=-1) > 0
        assert torch.equal(alive, self.weights > 0)

    def test_no_visible_keypoint_is_exactly_zero(self):
        student, teacher = self.pair()
        loss = KDLoss(dim=-1, visible_only=True)
        value = loss(student, teacher, keypoint_weights=0 * self.weights)
        value.backward()
        assert value == 0 and not student.grad.any()

    def test_gradcheck_and_detached_teacher(self):
        student, teacher = self.pair()
        teacher.requires_grad_()
        loss = KDLoss(2.0, dim=-1, visible_only=True)
        given = dict(keypoint_weights=self.weights)
        assert torch.autograd.gradcheck(lambda s: loss(s, teacher, **given), student)
        loss(student, teacher, **given).backward()
        assert teacher.grad is None
        assert abs(loss(student, teacher, **given) - loss(teacher, student, **given)) > 1e-4
        assert loss(teacher, teacher, **given) == 0

    def test_other_dimensions_are_positions(self):
        """Queries (B, Q, C), and what a classifier gives."""
        student, teacher = gen((2, 3, 2, 4), 0.3), gen((2, 3, 2, 4), 1.1)
        flat = KDLoss()(student.flatten(0, 2), teacher.flatten(0, 2))
        torch.testing.assert_close(KDLoss(dim=-1)(student, teacher), flat)
        torch.testing.assert_close(KDLoss(dim=-1)(student[0, 0], teacher[0, 0]),
                                   KDLoss()(student[0, 0], teacher[0, 0]))  # fmt: skip

    @pytest.mark.parametrize(
        'options, student, teacher, mismatch, fields',
        [
            ({}, (2, 3, 8), (2, 3, 8), 'form', dict(fix='SimCC heads (B, K, W), need dim=-1')),
            (dict(dim=-1), (2, 3, 8), (2, 3, 6), 'form', dict(fix='simcc_split_ratio')),
            (dict(dim=-1), (2, 3, 8), (2, 4, 8), 'form', dict(problem='of one shape')),
            (dict(dim=-1), (2, 3, 1), (2, 3, 1), 'one class', {}),
            (
                dict(dim=-1, visible_only=True),
                (2, 3),
                (2, 3),
                'form',
                dict(problem='takes logits (B, K, W)'),
            ),
        ],
    )
    def test_refusals(self, options, student, teacher, mismatch, fields):
        loss = KDLoss(**options)
        for call in (loss, loss.check):
            with unfit(mismatch, student=student, teacher=teacher, **fields):
                call(torch.zeros(student), torch.zeros(teacher))

    def test_weights_that_are_missing_or_others(self):
        loss = KDLoss(dim=-1, visible_only=True)
        told = 'needs keypoint_weights (2, 3)'
        with unfit('labels', problem=told, keypoint_weights='NoneType'):
            loss(*self.pair())
        with unfit('labels', problem=told, keypoint_weights=(2, 4)):
            loss(*self.pair(), keypoint_weights=torch.ones(2, 4))

    @pytest.mark.parametrize(
        'options, fields',
        [
            (dict(dim=2), dict(key='dim', got=2, expected='1 or -1')),
            (
                dict(dim=-1, valid_only=True),
                dict(key='valid_only', got=True, problem='reads label maps'),
            ),
            (dict(visible_only=True), dict(key='visible_only', got=True, fix='dim=-1')),
        ],
    )
    def test_options_that_contradict(self, options, fields):
        with refused(**fields):
            KDLoss(**options)


class TestBinary:
    """Two anchors of three classes on maps of 2 x 4."""

    def pair(self):
        return gen((2, 6, 2, 4), 0.3).requires_grad_(), gen((2, 6, 2, 4), 1.1)

    def anchors(self, temperature=1.0):
        """Summed KL and the teacher's highest probability, of each anchor (B, A, h, w)."""
        student, teacher = (x.detach() for x in self.pair())
        kl, best = torch.zeros(2, 2, 2, 4).double(), torch.zeros(2, 2, 2, 4).double()
        for b, a, i, j in itertools.product(*map(range, kl.shape)):
            for c in range(3):
                s, t = (x[b, 3 * a + c, i, j] for x in (student, teacher))
                p, q = ((x / temperature).sigmoid() for x in (s, t))
                kl[b, a, i, j] += q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
                best[b, a, i, j] = max(best[b, a, i, j], t.sigmoid())
        return kl * temperature**2, best

    def test_every_anchor_by_default(self):
        kl, _ = self.anchors(2.0)
        torch.testing.assert_close(BinaryKDLoss(2.0, num_classes=3)(*self.pair()), kl.mean())
        whole = BinaryKDLoss(2.0)(*self.pair())  # one position a pixel
        torch.testing.assert_close(whole, 2 * kl.mean())

    @pytest.mark.parametrize('threshold', [0.05, 0.7])
    def test_foreground_is_where_the_teacher_sees_a_class(self, threshold):
        kl, best = self.anchors()
        loss = BinaryKDLoss(positions='foreground', threshold=threshold, num_classes=3)
        counted = best >= threshold
        assert counted.any() and (threshold < 0.5 or not counted.all())
        student, teacher = self.pair()
        value = loss(student, teacher)
        torch.testing.assert_close(value, kl[counted].mean())
        value.backward()
        assert torch.equal(student.grad.unflatten(1, (2, 3)).norm(dim=2) > 0, counted)

    def test_confidence_weighs(self):
        kl, best = self.anchors(0.5)
        loss = BinaryKDLoss(0.5, positions='confidence', num_classes=3)
        torch.testing.assert_close(loss(*self.pair()), (kl * best).sum() / best.sum())

    def test_labels_leave_pixels_out_for_all_anchors(self):
        kl, best = self.anchors()
        labels = lab(2, 4, 8, 3)
        valid = (labels[:, ::2, ::2] != 255)[:, None].expand(2, 2, 2, 4)
        assert 0 < valid.sum() < valid.numel()
        loss = BinaryKDLoss(valid_only=True, num_classes=3)
        assert loss.needs == ('labels',)
        torch.testing.assert_close(loss(*self.pair(), labels=labels), kl[valid].mean())
        both = BinaryKDLoss(valid_only=True, positions='confidence', num_classes=3)
        expected = (kl * best)[valid].sum() / best[valid].sum()
        torch.testing.assert_close(both(*self.pair(), labels=labels), expected)

    def test_no_foreground_is_exactly_zero(self):
        student, teacher = self.pair()
        value = BinaryKDLoss(positions='foreground')(student, teacher - 50)
        value.backward()
        assert value == 0 and not student.grad.any()

    def test_other_heads(self):
        """A multi-label classifier, a binary segmentor of two classes by name, a DETR."""
        student, teacher = (x.detach() for x in self.pair())
        rows = [x.movedim(1, -1) for x in (student, teacher)]  # (B, h, w, C)
        flat = [x.flatten(0, 2) for x in rows]
        expected = BinaryKDLoss()(student, teacher)
        torch.testing.assert_close(BinaryKDLoss(num_classes=6)(*flat), expected)
        queries = BinaryKDLoss(dim=-1, num_classes=6)(*rows)
        torch.testing.assert_close(queries, expected)
        one = [x[:, :1] for x in (student, teacher)]
        assert torch.equal(BinaryKDLoss(num_classes=2)(*one), BinaryKDLoss()(*one))
        chosen = dict(positions='foreground', threshold=0.7)
        torch.testing.assert_close(
            BinaryKDLoss(dim=-1, **chosen)(*rows), BinaryKDLoss(**chosen)(student, teacher)
        )

    def test_channels_of_a_softmax(self):
        x = torch.zeros(2, 81, 2, 4)
        for call in (BinaryKDLoss(num_classes=80), BinaryKDLoss(num_classes=80).check):
            told = dict(problem=('81 channels', 'num_classes=80'), fix='KDLoss')
            with unfit('declared channels', student=(2, 81, 2, 4), **told):
                call(x, x)

    @pytest.mark.parametrize(
        'options, fields',
        [
            (dict(positions='some'), dict(key='positions', expected="or 'confidence'")),
            (dict(threshold=1.0), dict(key='threshold', got=1.0, expected='in [0, 1)')),
            (dict(dim=0), dict(key='dim', got=0, expected='1 or -1')),
            (dict(dim=-1, valid_only=True), dict(key='valid_only', got=True)),
        ],
    )
    def test_options_that_cannot_be(self, options, fields):
        with refused(**fields):
            BinaryKDLoss(**options)
