"""Losses that compare images of a batch, or a classifier's predictions: a table of properties."""

from typing import Any

import pytest
import torch
from oracles import gen, gen_plus
from saved import Largest

from kdmm.losses import (
    BatchRelationLoss,
    CCLoss,
    DISTLoss,
    DKDLoss,
    NSTLoss,
    PKTLoss,
    RKDLoss,
    SPLoss,
    VIDLoss,
)
from tests.errors import refused, unfit
from tests.versions import cpu_autocast

LABELS = torch.tensor([0, 3, 4, 3, -1])
VECTORS, MAPS, LOGITS = ((5, 6), (5, 9)), ((5, 6, 4, 3), (5, 9, 4, 3)), ((5, 6), (5, 6))


def seeded(make: Any, *args: Any) -> Any:
    torch.manual_seed(0)
    return make(*args).double()


#: Loss, and shapes of the student's and the teacher's activations.
FAMILY: dict[str, tuple[Any, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    'sp': (SPLoss(), MAPS),
    'sp, rows': (SPLoss('rows'), VECTORS),
    'pkt': (PKTLoss(), VECTORS),
    'pkt, rows': (PKTLoss('rows'), VECTORS),
    'rkd': (RKDLoss(), VECTORS),
    'rkd, unit': (RKDLoss(normalize=True, chunk=2), VECTORS),
    'cc': (seeded(CCLoss, 6, 9, 4), VECTORS),
    'dist': (DISTLoss(), LOGITS),
    'dist, T 4': (DISTLoss(4.0, skip_flat=True), LOGITS),
    'dist, maps': (DISTLoss(), ((2, 6, 4, 3), (2, 6, 4, 3))),
    'dkd': (DKDLoss(), LOGITS),
    'nst': (NSTLoss(), MAPS),
    'vid': (seeded(VIDLoss, 6, 9), MAPS),
}
RELATIONS = [name for name, (loss, _) in FAMILY.items() if isinstance(loss, BatchRelationLoss)]
#: Whose parts of a student that is the teacher are 0, up to the 1e-8 of DIST.
ZERO = [name for name in FAMILY if name not in ('cc', 'vid')]


def activations(name):
    student, teacher = FAMILY[name][1]
    return gen(student, 0.3).requires_grad_(), gen(teacher, 1.1)


def parts_of(name, student, teacher, labels=LABELS):
    """The parts of a loss, one in a tuple where it is a scalar."""
    loss = FAMILY[name][0]
    context = dict(labels=labels) if 'labels' in loss.needs else {}
    value = loss(student, teacher, **context)
    return tuple(value.values()) if isinstance(value, dict) else (value,)


@pytest.mark.parametrize('name', FAMILY)
class TestEachLoss:
    def test_parts_are_declared_and_teachers_detached(self, name):
        student, teacher = activations(name)
        teacher.requires_grad_()
        parts = parts_of(name, student, teacher)
        loss = FAMILY[name][0]
        assert len(parts) == len(loss.parts)
        for part in parts:
            assert part.shape == () and part.dtype == torch.float64
            (grad,) = torch.autograd.grad(part, student, retain_graph=True)
            assert grad.norm() > 1e-6
        sum(parts).backward()
        assert teacher.grad is None
        assert all(p.grad is not None and p.grad.any() for p in loss.parameters())
        loss.zero_grad()

    def test_gradcheck(self, name):
        student, teacher = activations(name)
        for index in range(len(FAMILY[name][0].parts)):
            assert torch.autograd.gradcheck(
                lambda s, index=index: parts_of(name, s, teacher)[index], student, atol=1e-6
            )

    def test_no_host_sync(self, name):
        """On 'meta' tensors anything that reads a value fails."""
        loss, shapes = FAMILY[name]
        student, teacher = (torch.empty(shape, device='meta') for shape in shapes)
        student.requires_grad_()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr('kdmm.losses.checks.check_labels', lambda *_: None)  # the first batch's
            if list(loss.parameters()):
                loss = type(loss)(shapes[0][1], shapes[1][1]).to('meta')
            labels = torch.empty(5, device='meta').long()
            value = loss(student, teacher, **(dict(labels=labels) if loss.needs else {}))
            total = sum(value.values()) if isinstance(value, dict) else value
            total.backward()
        assert student.grad.shape == student.shape

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_autocast(self, name, dtype):
        loss, shapes = FAMILY[name]
        torch.manual_seed(0)
        factor = 100 if list(loss.parameters()) else 60000
        pair = [factor * torch.randn(shape).clamp(-1, 1) for shape in shapes]
        pair[0][1] = 0
        pair[1][-1] = 0
        loss.float()
        try:
            for storage in (dtype, torch.float32):
                student = pair[0].to(storage).requires_grad_()
                with cpu_autocast(dtype):
                    parts = parts_of(name, student, pair[1].to(storage))
                    sum(parts).backward()
                assert all(part.dtype == torch.float32 and part.isfinite() for part in parts)
                grad = student.grad.float()
                assert student.grad.dtype == storage and grad.isfinite().all()
                assert grad.abs().max() < 1e3
        finally:
            loss.double()
            loss.zero_grad()

    def test_batches_of_other_images_are_refused(self, name):
        student, teacher = activations(name)
        shapes = dict(student=tuple(student.shape), teacher=tuple(teacher[:1].shape))
        for call in (FAMILY[name][0].check, lambda *pair: parts_of(name, *pair)):
            with unfit('images', **shapes):
                call(student, teacher[:1])

    def test_a_blank_image_is_checked(self, name):
        """One image of stride 0, as when a run is built."""
        FAMILY[name][0].check(*(torch.zeros(()).expand(1, *x[1:]) for x in FAMILY[name][1]))


@pytest.mark.parametrize('name', ZERO)
def test_zero_at_equality(name):
    student, _ = activations(name)
    parts = parts_of(name, student, student.detach().clone())
    for part in parts:
        (grad,) = torch.autograd.grad(part, student, retain_graph=True)
        assert part.abs() < 1e-4 and grad.norm() < 1e-3
    if 'dist' not in name:
        assert all(part.abs() < 1e-12 for part in parts)


@pytest.mark.parametrize('name', RELATIONS)
class TestRelations:
    def fresh(self, name):
        loss, shapes = FAMILY[name]
        if list(loss.parameters()):
            return type(loss)(shapes[0][1], shapes[1][1])
        made = type(loss)()
        vars(made).update({key: value for key, value in vars(loss).items() if key[0] != '_'})
        return made

    def test_fewer_images_than_it_compares(self, name):
        """Refused by name in the first batch; what is left of a data set gives no gradient."""
        loss = self.fresh(name)
        fewest = loss.least_images
        assert fewest == (3 if isinstance(loss, RKDLoss) else 2)
        shapes = [(fewest - 1, *shape[1:2]) for shape in FAMILY[name][1]]
        few = [gen(shape, 1.0).float() for shape in shapes]
        with unfit('few images', problem=(type(loss).__name__, f'fewer than {fewest}')):
            loss(*few)
        loss(*[gen((fewest, *shape[1:]), 0.5 + i).float() for i, shape in enumerate(shapes)])
        few[0].requires_grad_()
        value = loss(*few)
        parts = value if isinstance(value, dict) else dict(whole=value)
        for part, single in parts.items():
            assert single.isfinite()
            (grad,) = torch.autograd.grad(single, few[0], retain_graph=True)
            assert part == 'inter' or grad.abs().max() < 1e-6

    def test_least_batch(self, name, monkeypatch):
        """Of rows that are an image each; of several an image; of the images of 2 and 3 ranks."""
        loss = self.fresh(name)
        fewest = loss.least_images
        assert loss.rows_in(torch.ones(5, 3)) == 5
        assert [loss.least_batch(rows) for rows in (0, 1, 2, 9)] == [1, fewest, fewest - 1, 1]
        monkeypatch.setattr('kdmm.losses.batch_relation.world_size', lambda: 2)
        assert loss.least_batch(1) == fewest
        loss.scope = 'global'
        assert loss.least_batch(1) == fewest - 1
        monkeypatch.setattr('kdmm.losses.batch_relation.world_size', lambda: 3)
        assert loss.least_batch(1) == 1

    def test_scopes(self, name):
        if isinstance(FAMILY[name][0], CCLoss):
            return
        assert type(FAMILY[name][0])(scope='global').scope == 'global'
        with refused(key='scope', got='all', expected="'local' or 'global'"):
            type(FAMILY[name][0])(scope='all')


@pytest.mark.parametrize('cls', [SPLoss, PKTLoss])
def test_reductions(cls):
    with refused(key='reduction', got='sum', expected="'mean' or 'rows'"):
        cls(reduction='sum')
    with unfit('form', student=(5,), teacher=(5, 9)):
        cls()(torch.zeros(5), torch.zeros(5, 9))


@pytest.mark.parametrize('cls', [SPLoss, PKTLoss, RKDLoss])
def test_maps_of_any_size_are_vectors(cls):
    student, teacher = gen_plus((4, 3, 4, 4), 0.3), gen_plus((4, 5, 2, 2), 1.1)
    found, expected = cls()(student, teacher), cls()(student.flatten(1), teacher.flatten(1))
    torch.testing.assert_close(found, expected)


def test_rkd_of_options():
    student, teacher = activations('rkd')
    for normalize in (False, True):
        whole, blocks = (RKDLoss(normalize, chunk=chunk)(student, teacher) for chunk in (None, 2))
        torch.testing.assert_close(whole, blocks)
    assert RKDLoss()(student, teacher)['angle'] != whole['angle']
    made = []
    for chunk in (1, 5):
        with Largest() as largest:
            RKDLoss(chunk=chunk)(student, teacher)
        made.append(largest.elements)
    assert made == [3 * 1 * 25, 3 * 5 * 25]  # three buffers of a block
    with refused(key='chunk', got=0, expected='at least 1'):
        RKDLoss(chunk=0)


class TestCC:
    def test_embeddings_of_both_sides_are_trained_and_their_lengths_logged(self):
        loss = CCLoss(6, 9, 4).double()
        student, teacher = activations('cc')
        value = loss(student, teacher)
        value.backward()
        mine, theirs = loss.student_embedding, loss.teacher_embedding
        assert (mine.in_features, theirs.in_features) == (6, 9)
        assert mine.out_features == theirs.out_features == 4
        assert all(p.grad.any() for p in loss.parameters())
        lengths = [layer(x).norm(dim=1).mean() for layer, x in ((mine, student), (theirs, teacher))]
        torch.testing.assert_close(loss.logged['student_norm'].double(), lengths[0].detach())
        torch.testing.assert_close(loss.logged['teacher_norm'].double(), lengths[1].detach())
        assert not any(value.requires_grad for value in loss.logged.values())

    def test_nothing_is_normalised(self):
        """Half the embeddings, a quarter of the loss, with nothing learnt."""
        loss = CCLoss(6, 9, 4).double()
        student, teacher = activations('cc')
        before = loss(student, teacher)
        with torch.no_grad():
            for parameter in loss.parameters():
                parameter /= 2
        torch.testing.assert_close(loss(student, teacher), before / 4)

    def test_refusals(self):
        with unfit('unpooled'):
            CCLoss(6, 9)(torch.zeros(5, 6, 4, 3), torch.zeros(5, 9))
        with refused(key='dim', got=0, expected='at least 1'):
            CCLoss(6, 9, 0)


class TestPredictions:
    @pytest.mark.parametrize('cls', [DISTLoss, DKDLoss])
    def test_refusals(self, cls):
        loss = cls()
        for mismatch, mine, theirs in (
            ('classes', (5, 6), (5, 7)),
            ('form', (5, 6), (5, 6, 4, 3)),
            ('form', (5, 6, 2), (5, 6, 2)),
            ('one class', (5, 1), (5, 1)),
        ):
            with unfit(mismatch, student=mine, teacher=theirs, problem=cls.__name__):
                loss.check(torch.zeros(mine), torch.zeros(theirs))
        for value in (0, -1.0):
            with refused(key='temperature', got=value, expected='a positive number'):
                cls(temperature=value)

    def test_maps(self):
        with unfit('resolution', student=(2, 6, 4, 3), teacher=(2, 6, 4, 4)):
            DISTLoss().check(torch.zeros(2, 6, 4, 3), torch.zeros(2, 6, 4, 4))
        with unfit('form', problem='(B, K)'):
            DKDLoss().check(torch.zeros(2, 6, 4, 3), torch.zeros(2, 6, 4, 3))
        DISTLoss()(torch.rand(1, 6, 4, 3), torch.rand(1, 6, 4, 3))  # pixels of one image

    def test_the_parts_are_named_rightly(self):
        """Samples that a constant per class is added to keep no column: intra is about classes."""
        student, teacher = (x.detach() for x in activations('dist'))
        one = teacher[:1].expand(5, -1)  # all samples alike
        parts = DISTLoss()(one, teacher[:1].expand(5, -1) + 0)
        assert parts['inter'] < 1e-6 and parts['intra'] == 1
        labels = LABELS.clamp_min(0)
        shifted = teacher.scatter_add(1, labels[:, None], torch.ones(5, 1).double())
        parts = DKDLoss()(shifted, teacher, labels)  # the label's logit alone differs
        assert parts['target'] > 0.01 and parts['others'] < 1e-15

    def test_the_temperature_may_change(self):
        for loss, context in ((DISTLoss(1.0), {}), (DKDLoss(1.0), dict(labels=LABELS))):
            pair = activations('dkd')
            before = loss(*pair, **context)
            loss.temperature = 4.0
            after = loss(*pair, **context)
            assert all(before[part] != after[part] for part in before)
            torch.testing.assert_close(after, type(loss)(4.0)(*pair, **context))

    @pytest.mark.parametrize(
        'labels',
        [torch.zeros(5, 2).long(), torch.zeros(4).long(), torch.rand(5), torch.rand(5, 6)],
        ids=['several', 'too few', 'no integers', 'mixed'],
    )
    def test_labels_that_are_not_one_class_an_image(self, labels):
        with unfit('labels', labels=tuple(labels.shape), problem='one class an image'):
            DKDLoss()(*activations('dkd'), labels=labels)

    def test_foreign_labels(self):
        for value in (6, -2):
            labels = LABELS.clone()
            labels[0] = value
            with pytest.raises(ValueError, match=f'value {value}, but there are 6 classes'):
                DKDLoss()(*activations('dkd'), labels=labels)
        with pytest.raises(ValueError, match='value -1'):
            DKDLoss(ignore_index=255)(*activations('dkd'), labels=LABELS)


class TestLayers:
    def maps(self):
        student = tuple(gen((2, c, *size), 0.3 + c) for c, size in ((3, (4, 5)), (4, (2, 3))))
        return student, tuple(
            gen((2, c, *x.shape[2:]), 1.1) for c, x in zip((5, 6), student, strict=True)
        )

    def test_the_sum_over_taps(self):
        student, teacher = self.maps()
        single = [NSTLoss()(*pair) for pair in zip(student, teacher, strict=True)]
        torch.testing.assert_close(NSTLoss()(student, teacher), sum(single))
        loss = VIDLoss((3, 4), (5, 6)).double()
        assert [sum(p.numel() for p in r.parameters()) for r in loss.regressors] == [70, 102]
        parts = []
        for index, pair in enumerate(zip(student, teacher, strict=True)):
            one = VIDLoss(pair[0].shape[1], pair[1].shape[1]).double()
            one.regressors[0].load_state_dict(loss.regressors[index].state_dict())
            parts.append(one(*pair))
        torch.testing.assert_close(loss(student, teacher), sum(parts))

    def test_refusals(self):
        student, teacher = self.maps()
        vid = VIDLoss((3, 4), (5, 6)).double()
        for loss in (NSTLoss(), vid):
            with unfit('form', problem='numbers of maps differ'):
                loss(student, teacher[:1])
            with unfit('resolution'):
                loss(student, (teacher[0], teacher[1][..., :2]))
            with unfit('form', problem='maps (B, C, h, w)'):
                loss(tuple(x.flatten(2) for x in student), teacher)
        with unfit('form', problem='built for 2 taps'):
            vid(student[0], teacher[0])
        with unfit('declared channels', student=(2, 3, 4, 5), teacher=(2, 6, 4, 5)):
            vid(student, (gen((2, 6, 4, 5), 1), teacher[1]))
        with unfit('one pixel'):
            NSTLoss()(student[0][..., :1, :1], teacher[0][..., :1, :1])


class TestVID:
    def test_parameters(self):
        """1x1 convolutions without bias and a variance a channel: 64 to 256 channels."""
        loss = VIDLoss(64, 256)
        assert sum(p.numel() for p in loss.parameters()) == 64 * 256 + 2 * 256**2 + 256 == 147_712
        assert all(p.requires_grad for p in loss.parameters())

    def test_variances_start_at_5_are_logged_and_learn(self):
        loss = VIDLoss(3, 4)
        mean, variance = loss.regressors[0](torch.rand(2, 3, 4, 4))
        torch.testing.assert_close(variance, torch.full((4,), 5.0))
        torch.testing.assert_close(VIDLoss(3, 4, 0.1).regressors[0](mean[:, :3])[1][0].item(), 0.1)
        optimizer = torch.optim.SGD(loss.parameters(), lr=1.0)
        student, teacher = torch.rand(2, 3, 4, 4), torch.rand(2, 4, 4, 4)
        first = loss(student, teacher)
        assert loss.logged['variance'].item() == pytest.approx(5, rel=1e-6)
        first.backward()
        optimizer.step()
        second = loss(student, teacher)
        assert second < first and loss.logged['variance'] < 5  # it shrinks towards the error

    def test_a_variance_cannot_overflow(self):
        """log(1 + exp(a)) is infinite at 89 in single precision."""
        loss = VIDLoss(3, 4)
        student, teacher = torch.rand(2, 3, 4, 4), torch.rand(2, 4, 4, 4)
        for raw, least in ((1e4, 1e4), (-1e4, 1e-5)):
            with torch.no_grad():
                loss.regressors[0].raw_variance.fill_(raw)
            value = loss(student, teacher)
            value.backward()
            assert value.isfinite() and loss.logged['variance'].item() == pytest.approx(least)
            assert all(p.grad.isfinite().all() for p in loss.parameters())

    @pytest.mark.parametrize('value', [0.0, -1.0, 1e-5])
    def test_a_variance_that_cannot_be(self, value):
        with refused(key='variance', got=value):
            VIDLoss(3, 4, value)
