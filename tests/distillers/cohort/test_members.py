"""Members of a cohort."""

import copy

import pytest
import torch
from mmengine.config import Config

pytest.importorskip('mmpretrain')

from kdmm.distillers.cohort.members import (  # noqa: E402
    build_others,
    build_peer,  # noqa: E402
    other_configs,
)
from tests.errors import refused  # noqa: E402

from .networks import classifier_config  # noqa: E402

STUDENT = classifier_config()
WIDER = classifier_config(widths=(4, 4, 8, 12))


class Blank(torch.nn.Module):
    """Prepares images as a classifier without settings does."""

    def __init__(self) -> None:
        super().__init__()
        self.data_preprocessor = torch.nn.Identity()


@pytest.mark.parametrize('count', [2, 3, 5])
def test_a_number_counts_the_student(count):
    assert other_configs(count, STUDENT) == [STUDENT] * (count - 1)


@pytest.mark.parametrize('peers', [1, 0, -2, 2.0, True, 'x', [], None, dict(type='a')])
def test_fewer_than_two_are_refused(peers):
    told = 'the number of networks, 2 or more'
    with refused(key='kd.peers', got=peers, expected=told):
        other_configs(peers, STUDENT)


def test_a_list_names_the_others(tmp_path):
    file = tmp_path / 'wider.py'
    Config(dict(default_scope='mmpretrain', model=WIDER)).dump(file)
    first, second, third = other_configs(
        [WIDER, str(file), 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'], STUDENT
    )
    assert first == WIDER
    assert second['backbone'] == WIDER['backbone'] and second['_scope_'] == 'mmpretrain'
    assert third['backbone']['type'] == 'ResNet_CIFAR' and third['head']['num_classes'] == 10


@pytest.mark.parametrize(
    'item, fields',
    [
        (3, dict(expected='model dicts or names of configs')),
        ('no_such_file.py', dict(problem='cannot be read')),
    ],
)
def test_what_names_no_model_is_refused(item, fields):
    with refused(key='kd.peers', got=item, **fields):
        other_configs([WIDER, item], STUDENT)


def test_a_dict_without_a_preprocessor_has_the_students():
    """As if it stood in the student's place, where the Runner gives it the config's."""
    config = dict(STUDENT, data_preprocessor=dict(mean=[1.0] * 3, std=[2.0] * 3))
    own = dict(WIDER, data_preprocessor=dict(mean=[3.0] * 3, std=[2.0] * 3))
    first, second = other_configs([WIDER, own], config)
    assert first['data_preprocessor'] == config['data_preprocessor']
    assert second['data_preprocessor'] == own['data_preprocessor']


@pytest.mark.parametrize(
    'keep, names',
    [(0, ['peer1', 'peer2']), (1, ['peer0', 'peer2']), (2, ['peer0', 'peer1'])],
)
def test_names_say_the_place(keep, names):
    assert list(build_others([STUDENT] * 2, keep, Blank())) == names


@pytest.mark.parametrize('keep', [3, -1, 5, '0', True, None, 1.0])
def test_no_place_is_refused(keep):
    with refused(key='kd.keep', got=keep, expected='a place from 0 to 2'):
        build_others([STUDENT] * 2, keep, Blank())


def test_networks_of_one_config_start_differently_and_leave_it_alone():
    config, before = STUDENT, copy.deepcopy(STUDENT)
    one, other = build_others([config] * 2, 0, Blank()).values()
    assert config == before
    weights = [
        (one.get_parameter(name), other.get_parameter(name))
        for name, p in one.named_parameters()
        if p.ndim > 1
    ]
    assert len(weights) > 8 and not any(torch.equal(a, b) for a, b in weights)
    assert all(module.is_init for module in (one.backbone, other.backbone))


@pytest.mark.parametrize(
    'option', [dict(mean=[9.0] * 3), dict(std=[9.0] * 3), dict(to_rgb=True), dict(pad_value=7)]
)
def test_other_images_are_refused(option):
    values = dict(mean=[1.0] * 3, std=[2.0] * 3)
    own = build_peer(dict(STUDENT, data_preprocessor=values))
    config = dict(STUDENT, data_preprocessor={**values, **option})
    with refused(key='kd.peers', problem='the data_preprocessor of peer1 (ImageClassifier)'):
        build_others([config], 0, own)
