import pytest
import torch
import torch.nn.functional as F

from kdmm.distillers import ClassMap, distill
from tests.distillers.tiny_models import KD, images, samples, segmentor, tiny
from tests.errors import refused, unfit
from tests.versions import cpu_autocast

# the student's 4 classes: the teacher's 3; unknown to it; its 0 or 4; its 1
CLASSES = [3, None, [0, 4], 1]


def naive(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of the shared classes, summed pixel by pixel."""
    mine, theirs = (x.double().softmax(1) for x in (student, teacher))
    p_s = torch.stack([mine[:, 0], mine[:, 2], mine[:, 3]], 1)
    p_t = torch.stack([theirs[:, 3], theirs[:, 0] + theirs[:, 4], theirs[:, 1]], 1)
    return p_s / p_s.sum(1, keepdim=True), p_t / p_t.sum(1, keepdim=True)


def test_both_softmaxes_run_over_the_shared_classes():
    student, teacher = torch.randn(2, 4, 3, 5), torch.randn(2, 6, 3, 5)
    found = ClassMap(CLASSES, 4, 6)(student, teacher)
    for mine, expected in zip(found, naive(student, teacher), strict=True):
        assert mine.shape == (2, 3, 3, 5)
        torch.testing.assert_close(mine.double().softmax(1), expected, rtol=1e-5, atol=1e-6)


def test_a_map_onto_the_same_classes_is_a_permutation():
    student, teacher = torch.randn(2, 3), torch.randn(2, 3)
    mine, theirs = ClassMap([2, 0, 1], 3, 3)(student, teacher)
    assert mine is student and torch.equal(theirs, teacher[:, [2, 0, 1]])


def test_labels_of_absent_classes_are_ignored():
    labels = torch.tensor([[0, 1, 2, 3, 255, 9, -1]])
    assert ClassMap(CLASSES, 4, 6).remap(labels).tolist() == [[0, 255, 1, 2, 255, 9, -1]]
    assert ClassMap(CLASSES, 4, 6, ignore_index=-100).remap(labels)[0, 1] == -100


def test_merging_does_not_overflow_in_half_precision():
    teacher = torch.full((1, 6, 1, 1), 60000.0, dtype=torch.float16)
    with cpu_autocast(torch.float16):
        merged = ClassMap(CLASSES, 4, 6)(torch.zeros(1, 4, 1, 1), teacher)[1]
    torch.testing.assert_close(merged[0, :, 0, 0], torch.tensor([6e4, 6e4 + 0.6931, 6e4]))


@pytest.mark.parametrize(
    'classes, fields',
    [
        ([0, 1, 2], dict(got=[0, 1, 2], problem='3 entries')),
        ([0, 1, 2, 6], dict(problem='class 6 is none of the teacher')),
        ([0, 1, 2, -1], dict(problem='class -1 is none of the teacher')),
        ([0, 1, [2, 1], 3], dict(problem='class 1 of the teacher is used twice')),
        ([0, 1, [], 3], dict(got=[], expected='an index, a list of indices or None')),
        ([0, 1, 'car', 3], dict(got='car', expected='an index')),
        ([0, 1, True, 3], dict(got=True, expected='an index')),
        ([None] * 4, dict(problem='no class is shared')),
    ],
)
def test_what_is_no_map_is_refused_with_both_class_counts(classes, fields):
    with refused(key='classes', **fields) as caught:
        ClassMap(classes, 4, 6)
    assert 'student has 4 classes, the teacher 6' in caught.value.problem


def test_an_ignored_label_that_is_a_class():
    with refused(key='ignore_index', got=0, problem='it is a class'):
        ClassMap(CLASSES, 4, 6, ignore_index=0)
    ClassMap([0, 1], 2, 2, ignore_index=0)  # labels stay as they are


def test_other_logits_than_it_was_built_for():
    with unfit('declared channels', student=(1, 5, 2, 2), teacher=(1, 6, 2, 2)):
        ClassMap(CLASSES, 4, 6)(torch.zeros(1, 5, 2, 2), torch.zeros(1, 6, 2, 2))


# in a distilled student


def kd(classes: list | None, **options: object) -> dict:
    connector = dict(type='ClassMap', classes=classes) if classes else None
    loss = dict(type='KDLoss', on='logits', connector=connector, **options)
    return {**KD, 'teacher': dict(model=tiny(6, num_classes=6), random=True),
            'losses': dict(kd=loss)}  # fmt: skip


def test_without_a_map_both_class_counts_are_named():
    told = 'classes differ: student (1, 4, 8, 8), teacher (1, 6, 8, 8)'
    with refused(key='kd.losses.kd', problem=told, fix="type='ClassMap'"):
        distill(tiny(num_classes=4), **kd(None))


def test_an_absent_class_needs_a_loss_that_leaves_pixels_out():
    with refused(key='kd.losses.kd', fix='Set valid_only=True.'):
        distill(tiny(num_classes=4), **kd(CLASSES))
    distill(tiny(num_classes=4), **kd([3, 2, [0, 4], 1]))


def test_a_wrong_map_names_its_key():
    told = 'the student has 4 classes, the teacher 6'
    with refused(key='kd.losses.kd.connector.classes', got=[0, 1], problem=told):
        distill(tiny(num_classes=4), **kd([0, 1]))


def test_the_loss_is_that_of_the_shared_classes_where_they_are_labelled():
    student = distill(tiny(num_classes=4), **kd(CLASSES, valid_only=True)).train()
    student.stem[3].p = 0.0
    x, batch = images(), samples(classes=4)
    batch[1].gt_sem_seg.data[:] = 1  # all of a class that the teacher does not know
    labels = torch.stack([sample.gt_sem_seg.data[0] for sample in batch])[:, ::2, ::2]
    found = student(x, batch, mode='loss')['kd.loss_kd']
    found.backward()
    p_s, p_t = naive(student(x), student.kd.teachers[0](x)['logits'])
    per_pixel = F.kl_div(p_s.log(), p_t, reduction='none').sum(1)
    torch.testing.assert_close(found.double(), per_pixel[labels != 1].mean(), rtol=1e-5, atol=0)
    assert student.head.weight.grad.any() and not student.head.weight.grad[1].any()


def test_the_loss_is_told_the_number_of_shared_classes():
    loss = dict(
        type='Parts', on='logits', connector=dict(type='ClassMap', classes=[1, None, [2, 3]])
    )
    options = {**KD, 'teacher': dict(model=segmentor(8, 4), random=True), 'losses': dict(p=loss)}
    options['taps'] = dict(logits='decode_head.conv_seg.out')
    made = distill(segmentor(8, 3), **options).kd.terms['p'].loss
    assert made.num_classes == 2 and made.projector.weight.shape == (2, 2, 1, 1)


@pytest.mark.parametrize('kind', ['CWDLoss', 'CSDLoss'])
def test_a_loss_that_cannot_leave_pixels_out_is_refused(kind):
    loss = dict(type=kind, on='logits', connector=dict(type='ClassMap', classes=CLASSES))
    with refused(key='kd.losses.a', problem=f'{kind} reads no labels'):
        distill(tiny(num_classes=4), **{**kd(CLASSES, valid_only=True), 'losses': dict(a=loss)})
