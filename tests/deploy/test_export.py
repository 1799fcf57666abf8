"""Choice of the part, names and shapes of outputs, size of the images."""

import copy

import pytest
import torch
from mmengine.config import Config

from kdmm.config import load_config
from kdmm.deploy import network_of, peer_config
from tests.deploy.nets import CLASSIFIER, DETECTOR, SEGMENTOR, BatchSecond, Files, tiny, write
from tests.errors import refused

TRAINED_AT = dict(
    train_dataloader=dict(dataset=dict(pipeline=[dict(type='Resize', scale=(90, 40))]))
)


def cfg_of(files: Files, **more: object) -> Config:
    return load_config(files.config, more)


def test_a_section_kd_is_ignored(tmp_path):
    files = write(tmp_path, CLASSIFIER, kd=dict(teacher=dict(config='nowhere.py')))
    network = network_of(cfg_of(files), files.checkpoint, size=(16, 16))
    images = torch.randn(2, 3, 16, 16)
    (logits,) = network.module(images)
    assert torch.equal(logits, files.outputs(images)) and not logits.requires_grad
    assert network.outputs == dict(logits=('batch', 5))
    assert network.facts['normalization'].startswith('RGB, mean (123.675, 116.28, 103.53)')


def test_detectors_give_features_unless_the_head_is_asked_for(tmp_path):
    files = write(tmp_path, DETECTOR)
    cfg, size = cfg_of(files), (32, 64)
    features = network_of(cfg, files.checkpoint, size=size)
    assert features.part == 'features'
    assert features.outputs == dict(features_0=('batch', 4, 8, 16), features_1=('batch', 4, 4, 8))
    raw = network_of(cfg, files.checkpoint, 'network', size)
    images = torch.randn(1, 3, *size)
    scores, boxes = files.outputs(images)
    assert list(raw.outputs) == ['outputs_0_0', 'outputs_0_1', 'outputs_1_0', 'outputs_1_1']
    assert all(map(torch.equal, raw.module(images), [*scores, *boxes]))
    assert raw.outputs['outputs_1_1'] == ('batch', 4, 4, 8)


def test_features_of_a_classifier_are_what_its_neck_gives(tmp_path):
    files = write(tmp_path, CLASSIFIER)
    network = network_of(cfg_of(files), files.checkpoint, 'features', (16, 16))
    assert network.outputs == dict(features_0=('batch', 8))


def test_the_batch_is_found_wherever_it_is(tmp_path):
    files = write(tmp_path, tiny(BatchSecond))
    cfg = cfg_of(files)
    found = network_of(cfg, files.checkpoint, size=(8, 8)).outputs
    assert found == dict(outputs_rows=('2*batch', 4, 4), outputs_layers_0=(1, 'batch', 48))
    fixed = network_of(cfg, files.checkpoint, size=(8, 8), batch=4)
    assert fixed.outputs == dict(outputs_rows=(8, 4, 4), outputs_layers_0=(1, 4, 48))
    assert fixed.input_shape == (4, 3, 8, 8)


def test_the_size_is_the_training_images(tmp_path):
    files = write(tmp_path, DETECTOR, **TRAINED_AT)
    assert network_of(cfg_of(files), files.checkpoint).inputs == (3, 64, 96)  # multiples of 32
    files = write(tmp_path, SEGMENTOR, **TRAINED_AT)
    network = network_of(cfg_of(files), files.checkpoint)
    assert network.inputs == (3, 40, 90) and network.outputs == dict(logits=('batch', 3, 5, 12))


def test_a_peer_has_its_own_model(tmp_path):
    wide = copy.deepcopy(CLASSIFIER.model)
    wide.backbone.base_channels = 8
    wide.head.in_channels = 16
    files = write(tmp_path, CLASSIFIER, model=wide, kd=dict(_delete_=True))
    kd = dict(type='Cohort', peers=[wide])
    cfg = Config(dict(CLASSIFIER.to_dict(), kd=kd))
    with refused(key='checkpoint', got=files.checkpoint, problem='wrong shape'):
        network_of(cfg, files.checkpoint, size=(16, 16))
    with refused(key='--peer', got=0, expected='one of 1'):
        peer_config(cfg, 0)
    peer_config(cfg, 1)
    images = torch.randn(2, 3, 16, 16)
    (logits,) = network_of(cfg, files.checkpoint, size=(16, 16)).module(images)
    assert torch.equal(logits, files.outputs(images))
    cfg.kd.keep = 1
    with refused(key='--peer', got=1, expected='one of 0'):
        peer_config(cfg, 1)
    with refused(key='--peer', got=1, problem='trains no peers'):
        peer_config(Config(dict(CLASSIFIER.to_dict())), 1)


def test_wrong_input(tmp_path):
    files = write(tmp_path, CLASSIFIER)
    cfg = cfg_of(files)
    with refused(key='--size', fix='--size HEIGHT WIDTH'):
        network_of(cfg, files.checkpoint)
    with refused(key='--size', got=(0, 16)):
        network_of(cfg, files.checkpoint, size=(0, 16))
    with refused(key='--batch', got=0):
        network_of(cfg, files.checkpoint, size=(16, 16), batch=0)
    with refused(key='checkpoint', got=f'{tmp_path}/a.pth'):
        network_of(cfg, f'{tmp_path}/a.pth', size=(16, 16))
    with refused(key='model.backbone', problem='invalid depth'):
        network_of(cfg_of(files, **{'model.backbone.depth': 17}), files.checkpoint, size=(16, 16))
    with refused(key='--part', got='features', problem='does not run on 8x8 images alone'):
        tinies = write(tmp_path, tiny(BatchSecond))
        network_of(cfg_of(tinies), tinies.checkpoint, 'features', (8, 8))


@pytest.mark.parametrize('cfg', [Config(dict(default_scope='mmengine'))])
def test_a_config_without_a_model(cfg):
    with refused(key='config', problem='has no model'):
        network_of(cfg, 'a.pth', size=(8, 8))
