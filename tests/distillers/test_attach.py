"""Copies and pickles of students in training are plain students."""

import copy
import io
import pickle
import pickletools
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn

from kdmm.distillers import distill
from kdmm.distillers.objective import Objective, averaged_part
from tests.distillers.tiny_models import (
    KD,
    TEACHER,
    build,
    images,
    samples,
    seg_samples,
    segmentor,
    tiny,
)

CIRKD = dict(
    teacher=dict(model=segmentor(12), random=True),
    taps=dict(logits='decode_head.conv_seg.out', pixels='decode_head.conv_seg.in'),
    losses=dict(
        kd=dict(type='KDLoss', on='logits'),
        memory=dict(type='CIRKDMemoryLoss', on='pixels', pixel_size=8, region_size=8, pixel_keys=6),
    ),
)


def tiny_pair() -> tuple[Any, Any, tuple]:
    return distill(tiny(), **KD), build(tiny()), (images(), samples())


def segmentors() -> tuple[Any, Any, tuple]:
    pytest.importorskip('mmseg')
    batch = (images(size=32), seg_samples())
    return distill(segmentor(8), **copy.deepcopy(CIRKD)), build(segmentor(8)), batch


def classifiers(kind: str, **section: Any) -> Any:
    def made() -> tuple[Any, Any, tuple]:
        pytest.importorskip('mmpretrain')
        from tests.distillers.hssakd.classifiers import batch, random_teacher
        from tests.distillers.hssakd.classifiers import build as classifier

        options = dict(teacher=random_teacher()) if kind == 'HSSAKD' else {}
        return classifier(kind, **options, **section), classifier(), batch(0, 2, 0, 2)

    return made


def mocos() -> tuple[Any, Any, tuple]:
    pytest.importorskip('mmpretrain')
    from mmengine.registry import MODELS

    from tests.distillers import mocos

    return mocos.build(), MODELS.build(mocos.moco_config()).double(), (mocos.views(), None)


MUTUAL = dict(
    taps=dict(logits='head.fc.out', embedding='head.fc.in'),
    losses=dict(
        dml=dict(type='KDLoss', on='logits'), mcl=dict(type='MCLLoss', on='embedding', dim=8)
    ),
)
#: What builds a student in training, a plain one of its kind, and a batch.
STUDENTS = {
    'Distiller': tiny_pair,
    'Distiller, a segmentor': segmentors,
    'HSSAKDTeacher': classifiers('HSSAKDTeacher', random=True),
    'HSSAKDTeacher, joint': classifiers('HSSAKDTeacher', joint=True),
    'HSSAKD': classifiers('HSSAKD'),
    'HSSAKDOnline': classifiers('HSSAKDOnline'),
    'Cohort': classifiers('Cohort', **MUTUAL),
    'Cohort, a trunk': classifiers('Cohort', trunk=['backbone.stem'], **MUTUAL),
    'MCLMoCo': mocos,
}
COHORTS = ('Cohort', 'Cohort, a trunk')
DEEP = ('copy.deepcopy', 'a copy of a copy')


def saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    'pickle': lambda model: pickle.loads(pickle.dumps(model)),
    'oldest pickle': lambda model: pickle.loads(pickle.dumps(model, 0)),
    'torch.save': saved,
    'another process': lambda model: pickle.loads(ForkingPickler.dumps(model)),
    'copy.copy': copy.copy,
    'copy.deepcopy': copy.deepcopy,
    'a copy of a copy': lambda model: copy.deepcopy(copy.deepcopy(model)),
}


def trained(name: str) -> tuple[Any, Any, tuple]:
    """The student after a step, in eval mode."""
    model, plain, batch = STUDENTS[name]()
    losses = model.train()(*batch, mode='loss')
    sum(v.sum() for k, v in losses.items() if 'loss' in k and v.requires_grad).backward()
    model.zero_grad()
    return model.eval(), plain, batch


def own(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if not key.startswith('kd.')}


def names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_modules() if not f'{name}.'.startswith('kd.')]


def hooks_of(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def predict(model: Any, batch: tuple) -> Any:
    inputs, _ = batch
    return model.extract_feat(inputs[0]) if isinstance(inputs, list) else model(inputs)


@pytest.mark.parametrize('name', STUDENTS)
def test_every_copy_is_a_plain_student(name):
    model, plain, batch = trained(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trains = {key: p.requires_grad for key, p in model.named_parameters()}
    expected = predict(model, batch)
    for way, make in WAYS.items():
        made = make(model)
        assert type(made) is type(plain), way
        assert hasattr(made, 'kd') == (name in COHORTS and way in DEEP), way
        assert names(made) == names(plain) and not made.training, way
        state = own(made.state_dict())
        assert list(state) == list(plain.state_dict()), way
        assert all(torch.equal(value, before[key]) for key, value in state.items()), way
        assert all(trains[key] == p.requires_grad for key, p in made.named_parameters()), way
        torch.testing.assert_close(predict(made, batch), expected, rtol=0, atol=0)
        assert hooks_of(made) == hooks_of(plain) == 0, way
        shared = {id(p) for p in model.parameters()} & {id(p) for p in made.parameters()}
        assert bool(shared) == (way == 'copy.copy'), way
    # it learns as a plain one does, and the original is as it was
    made.train()
    assert set(made(*batch, mode='loss')) == set(plain.train()(*batch, mode='loss'))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert isinstance(model.kd, Objective)


@pytest.mark.parametrize('name', STUDENTS)
def test_a_pickle_has_nothing_of_kdmm(name):
    """But what the student itself consists of; and no teacher, whose weights would be many."""
    model, plain, _ = STUDENTS[name]()
    found, expected = pickle.dumps(model, 2), pickle.dumps(plain, 2)
    assert modules_in(found) - modules_in(expected) <= {
        'copy_reg'
    }  # Python's own, under its old name
    assert len(found) < 1.1 * len(expected)


def modules_in(data: bytes) -> set[str]:
    """Modules that an unpickler would import, of a pickle of protocol 2."""
    return {arg.split()[0] for op, arg, _ in pickletools.genops(data) if op.name == 'GLOBAL'}


@pytest.mark.parametrize('name', ['Distiller', 'Cohort', 'MCLMoCo'])
def test_an_objective_is_not_pickled_by_itself(name):
    model, _, _ = STUDENTS[name]()
    for make in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match='belongs to a run.*Pickle the model'):
            make(model.kd)
    assert (copy.deepcopy(model.kd) is None) == (name != 'Cohort')


def test_students_of_one_kind_have_one_class():
    one, other = distill(tiny(), **KD), distill(tiny(8), **copy.deepcopy(KD))
    assert type(one) is type(other) is not type(build(tiny()))
    assert type(one).__qualname__ == type(build(tiny())).__qualname__
    role, _, _ = STUDENTS['HSSAKD']()
    cohort, _, _ = STUDENTS['Cohort']()
    assert type(role) is type(cohort) is not type(one)


def test_a_copy_is_distilled_again():
    model = distill(tiny(), **KD)
    again = distill(copy.deepcopy(model), **{**copy.deepcopy(KD), 'teacher': TEACHER})
    assert type(again) is type(model) and list(again.state_dict()) == list(model.state_dict())
    assert set(again(images(), samples(), mode='loss')) == set(
        model(images(), samples(), mode='loss')
    )


@pytest.mark.parametrize('name', STUDENTS)
def test_an_average_is_one_of_what_has_the_same_names(name):
    """Pairs by order, as MMEngine's hook makes them, are pairs by name."""
    model, plain, _ = STUDENTS[name]()
    part, average = averaged_part(model), ExponentialMovingAverage(model).module
    for kind in ('named_parameters', 'named_buffers'):
        theirs = list(getattr(average, kind)())
        mine = dict(getattr(model, kind)())
        pairs = zip(theirs, getattr(part, kind)(), strict=True)
        assert all(a == b and value is mine[b] for (a, _), (b, value) in pairs)
    assert averaged_part(plain) is plain
    assert list(part.state_dict()) == list(average.state_dict())
    assert set(part.state_dict()) <= set(model.state_dict())


def test_a_model_with_a_way_of_its_own():
    """State that a model's own ``__reduce__`` leaves out stays out; its class is kept."""

    class Own(type(build(tiny()))):
        def __getstate__(self) -> dict:
            return {key: value for key, value in vars(self).items() if key != 'cache'}

    net = Own()
    net.cache = [1]
    model = distill(net, **KD)
    for made in (copy.copy(model), copy.deepcopy(model)):
        assert type(made) is Own and not hasattr(made, 'cache') and not hasattr(made, 'kd')
    assert model.cache == [1]
