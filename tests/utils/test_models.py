"""Wrappers; every form in which a model's config names weights is seen, and goes."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.model import PretrainedInit
from mmengine.registry import MODEL_WRAPPERS, WEIGHT_INITIALIZERS

from kdmm.utils.models import pretrained_init, unwrapped, without_pretrained

LOADS = dict(type='Pretrained', checkpoint='nowhere.pth')
KAIMING = dict(type='Kaiming', layer='Conv2d')


class MyInit(PretrainedInit):
    """As a user may write one."""


@pytest.fixture
def registered():
    WEIGHT_INITIALIZERS.register_module(name='FromMyStore', module=MyInit)
    yield 'FromMyStore'
    WEIGHT_INITIALIZERS.module_dict.pop('FromMyStore')


@pytest.mark.parametrize(
    'init',
    [
        LOADS,
        ConfigDict(LOADS),
        dict(type='Pretrained', checkpoint='x.pth', prefix='backbone.'),
        dict(type='mmengine.Pretrained', checkpoint='x.pth'),
        dict(type='PretrainedInit', checkpoint='x.pth'),
        dict(type='Pretrained_Part', checkpoint='x.pth'),
        dict(type=PretrainedInit, checkpoint='x.pth'),
        dict(type=MyInit, checkpoint='x.pth'),
        dict(type='AnybodysInit', checkpoint='x.pth'),
    ],
)
def test_an_init_cfg_that_reads(init):
    assert pretrained_init(init) is init
    override = dict(KAIMING, override=dict(init, name='conv1'))
    for form in ([KAIMING, init], (init, KAIMING), [init], [[KAIMING], init]):
        assert pretrained_init(form) is init
        assert without_pretrained(dict(net=[dict(init_cfg=form, depth=18)]))['net'][0] in (
            dict(depth=18),
            dict(depth=18, init_cfg=type(form)([KAIMING])),
            dict(depth=18, init_cfg=[[KAIMING]]),
        )
    assert pretrained_init(override) is override['override']
    assert without_pretrained(dict(init_cfg=override)) == dict(init_cfg=KAIMING)
    both = dict(KAIMING, override=[dict(init, name='a'), dict(type='Normal', name='b')])
    kept = dict(KAIMING, override=[dict(type='Normal', name='b')])
    assert without_pretrained(dict(init_cfg=[both])) == dict(init_cfg=[kept])


def test_a_registered_init_that_reads(registered):
    assert pretrained_init(dict(type=registered, path='x')) is not None


@pytest.mark.parametrize(
    'init',
    [None, [], {}, KAIMING, [KAIMING], dict(KAIMING, override=dict(type='Normal', name='x'))],
)
def test_an_init_cfg_that_does_not(init):
    assert pretrained_init(init) is None
    assert without_pretrained(dict(init_cfg=init)) == dict(init_cfg=init)


def test_what_reads_goes_with_its_key():
    model = ConfigDict(
        pretrained='open-mmlab://resnet50',
        init_cfg=LOADS,
        backbone=dict(init_cfg=LOADS, depth=50),
        neck=dict(init_cfg=KAIMING, pretrained=None),
        heads=(dict(init_cfg=[LOADS], x=1), dict(parts=dict(a=[dict(init_cfg=[KAIMING, LOADS])]))),
        teacher_ckpt='x.pth',
    )
    before = model.to_dict()
    assert without_pretrained(model) == dict(
        backbone=dict(depth=50),
        neck=dict(init_cfg=KAIMING, pretrained=None),
        heads=(dict(x=1), dict(parts=dict(a=[dict(init_cfg=[KAIMING])]))),
    )
    assert isinstance(without_pretrained(model).backbone, ConfigDict)
    assert model.to_dict() == before


@pytest.mark.parametrize('kind', ['TIMMBackbone', 'mmseg.TIMMBackbone', 'HuggingFaceClassifier'])
@pytest.mark.parametrize(
    'asks', [dict(pretrained=True), dict(checkpoint_path='x.pth', pretrained=True)]
)
def test_libraries_that_fetch_by_name_are_told_not_to(kind, asks):
    found = without_pretrained(dict(type=kind, model_name='resnet18', **asks))
    assert found == dict(type=kind, model_name='resnet18', pretrained=False)


def test_what_is_fetched_by_default_is_not():
    for given in ({}, dict(pretrained=False), dict(pretrained=None)):
        found = without_pretrained(dict(type='mmseg.TIMMBackbone', **given))
        assert found == dict(type='mmseg.TIMMBackbone', pretrained=False)


class Wrapper(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module


def test_a_model_inside_a_registered_wrapper(monkeypatch):
    model = torch.nn.Linear(1, 1)
    wrapped = Wrapper(model)
    assert unwrapped(model) is model and unwrapped(None) is None
    assert unwrapped(wrapped) is wrapped  # a network may have a part called module
    monkeypatch.setitem(MODEL_WRAPPERS.module_dict, 'Wrapper', Wrapper)
    assert unwrapped(wrapped) is model
