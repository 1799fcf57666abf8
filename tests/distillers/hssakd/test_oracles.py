"""Reference numbers of the authors' code (docs/methods/hssakd.md)."""

import pytest
import torch
from torch import Tensor

pytest.importorskip('mmpretrain')

from kdmm.distillers.hssakd import (  # noqa: E402
    PeerTraining,
    StudentTraining,
    TeacherTraining,
)
from kdmm.distillers.hssakd.branches import BranchedOutput  # noqa: E402
from kdmm.functional import joint_labels, unrotated  # noqa: E402
from tests.models.backbones.networks import fill, fix  # noqa: E402

from .classifiers import build, classifier_config, random_teacher, samples, total  # noqa: E402

LABELS = torch.tensor([0, 2])
P_STUDENT, P_TEACHER = fix((8, 3), 1), fix((8, 3), 2)
Q_STUDENT = dict(stage1=fix((8, 12), 3), stage2=fix((8, 12), 4))
Q_TEACHER = dict(stage1=fix((8, 12), 5), stage2=fix((8, 12), 6))


def output_of(p: Tensor, q: dict[str, Tensor]) -> BranchedOutput:
    """Output that a network of these logits reports."""
    own = torch.nn.functional.cross_entropy(unrotated(p), LABELS)
    return BranchedOutput(p, q, dict(loss=own))


def of(model, found: BranchedOutput) -> dict[str, Tensor]:
    """The losses of an objective whose network has been seen already."""
    objective = model.kd
    objective.branched = lambda views, samples: found
    return objective.losses(torch.empty(0), [], joint_labels(LABELS))


def values(losses: dict[str, Tensor]) -> list[float]:
    return [round(float(value), 10) for value in losses.values()]


@pytest.mark.parametrize('joint', [False, True])
def test_teacher(joint):
    found = of(
        build('HSSAKDTeacher', joint=joint, random=not joint), output_of(P_TEACHER, Q_TEACHER)
    )
    assert values(found) == [1.2682027715, 2.5364748086, 2.5635860416]
    assert float(total(found)) == pytest.approx(6.3682636217, abs=1e-9)


def test_student():
    model = build('HSSAKD', teacher=random_teacher())
    model.kd.teacher.branch_outputs = lambda views: (P_TEACHER, Q_TEACHER)
    found = of(model, output_of(P_STUDENT, Q_STUDENT))
    assert values(found) == [1.1632009710, 0.4258128841, 0.8371458434, 0.8681931746]
    assert float(total(found)) == pytest.approx(3.2943528731, abs=1e-9)


def test_online():
    model = build('HSSAKDOnline')
    model.kd.peers[0].branched = lambda views, samples: output_of(P_TEACHER, Q_TEACHER)
    found = of(model, output_of(P_STUDENT, Q_STUDENT))
    assert float(total(found)) == pytest.approx(17.7290048986, abs=1e-9)


@pytest.mark.parametrize(
    'joint, stem', [(True, 7.951541974), (False, None)], ids=['attached', 'detached']
)
def test_resnet20_end_to_end(joint, stem):
    student = classifier_config(100, depth=20, widths=(16, 16, 32, 64))
    model = fill(build('HSSAKDTeacher', student, joint=joint, random=not joint))
    if not joint:  # the reference numbers are of batch statistics
        for part in (model.backbone, model.neck, model.head):
            torch.nn.Module.train(part)  # type: ignore[type-var]
    losses = model(fix((2, 3, 32, 32), 0), samples(7, 9), mode='loss')
    assert [round(float(value), 8) for value in losses.values()] == [
        4.68418893,
        7.25977979,
        7.25977979,
        10.10923287,
    ]
    assert float(total(losses)) == pytest.approx(29.3129813652, abs=1e-9)
    total(losses).backward()
    assert float(model.kd.branches['stage3'].fc.weight.grad.norm()) == pytest.approx(
        8.533296325, abs=1e-8
    )
    first = model.backbone.stem[0].weight.grad
    assert (first is None) == (stem is None)
    if stem is not None:
        assert float(first.norm()) == pytest.approx(stem, abs=1e-8)


def test_detached_stem_gradient_is_that_of_the_main_loss():
    """3.755530852 is the norm of the gradient where the branches read detached features."""
    student = classifier_config(100, depth=20, widths=(16, 16, 32, 64))
    model = fill(build('HSSAKDTeacher', student, joint=True, weight=dict(joint=0.0)))
    losses = model(fix((2, 3, 32, 32), 0), samples(7, 9), mode='loss')
    total(losses).backward()
    assert float(model.backbone.stem[0].weight.grad.norm()) == pytest.approx(3.755530852, abs=1e-8)


def test_names_of_roles():
    for joint in (False, True):
        made = build('HSSAKDTeacher', joint=joint, random=not joint).kd
        assert isinstance(made, TeacherTraining) and made.trains_student == joint
    assert isinstance(build('HSSAKD', teacher=random_teacher()).kd, StudentTraining)
    assert isinstance(build('HSSAKDOnline').kd, PeerTraining)
