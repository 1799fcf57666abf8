"""What a converted file says of itself, and what a checkpoint says without being converted."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from kdmm.errors import ConfigError
from kdmm.transfer import Request, convert
from kdmm.transfer.declared import declared, said
from kdmm.transfer.inputs import Normalisation
from tests.transfer.nets import RGB, config_of, shake, source, write_config

R18 = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
R50 = dict(type='ResNet', depth=50)


def go(checkpoint: Path, to: str = 'mmdet', out: str = 'out.pth', **more: Any) -> dict[str, Any]:
    path = checkpoint.parent / out
    convert(Request(str(checkpoint), to, str(path), **more))
    return torch.load(path, weights_only=True)


def plain(value: Any) -> bool:
    """As JSON knows it."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (str, int, float, bool)


def test_it_says_where_from_what_and_of_which_images(tmp_path):
    source('mmpretrain', R18, tmp_path / 'epoch_90.pth')
    content = go(tmp_path / 'epoch_90.pth')
    assert list(content) == ['state_dict', 'meta'] and plain(content['meta'])
    entry = said(content['meta'])
    assert entry['source'] == dict(
        file='epoch_90.pth',
        sha256=hashlib.sha256((tmp_path / 'epoch_90.pth').read_bytes()).hexdigest(),
        prefix='backbone.',
        branch=None,
    )
    assert entry['network'] == 'ResNet-18 and width 8' and entry['accepted'] == []
    assert entry['traits']['norm'] == 'BatchNorm eps 1e-05' and 'style' not in entry['traits']
    assert entry['inputs'] == RGB


def test_a_source_that_does_not_say_is_not_guessed(tmp_path):
    torch.save(shake(torchvision.models.resnet18()).state_dict(), tmp_path / 'in.pth')
    assert said(go(tmp_path / 'in.pth')['meta'])['inputs'] is None
    named = go(tmp_path / 'in.pth', out='named.pth', arch='resnet18')
    assert said(named['meta'])['inputs'] == RGB


@pytest.mark.parametrize('library', ['mmdet', 'mmpose'])
def test_a_bottleneck_that_was_converted_needs_no_name(tmp_path, library):
    """It states its style; a second conversion changes nothing."""
    source('mmpretrain', R50, tmp_path / 'in.pth', mean=[1.0, 2.0, 3.0])
    first = go(tmp_path / 'in.pth', library)
    again = go(tmp_path / 'out.pth', library, 'again.pth')
    for key, value in first['state_dict'].items():
        assert torch.equal(value, again['state_dict'][key])
    entry = said(again['meta'])
    assert entry['inputs']['mean'] == [1, 2, 3] and entry['traits']['style'] == 'pytorch'
    kept = said(first['meta'])['source']
    assert entry['source'] == kept and kept['file'] == 'in.pth'


def test_one_of_another_style_does(tmp_path):
    caffe = R50 | dict(style='caffe')
    source('mmdet', caffe, tmp_path / 'in.pth')
    config = write_config(tmp_path / 'caffe.py', 'mmdet', caffe)
    go(tmp_path / 'in.pth', config=config)
    with pytest.raises(ConfigError, match='do not show all .*give --source-config'):
        go(tmp_path / 'out.pth', out='again.pth')
    go(tmp_path / 'out.pth', out='again.pth', source_config=config, config=config)


def test_other_libraries_files_are_flat(tmp_path):
    source('mmpretrain', dict(type='ResNet', depth=18), tmp_path / 'in.pth')
    assert len(go(tmp_path / 'in.pth', 'torchvision')) == 120


def test_what_a_checkpoint_of_mmengine_says(tmp_path):
    text = config_of('mmdet', R50 | dict(style='caffe')).pretty_text
    found = declared(dict(cfg=text), 'backbone.', 'mmdet')
    assert found.traits['style'] == 'caffe' and found.inputs == Normalisation.of(RGB)


@pytest.mark.parametrize(
    'meta', [{}, dict(epoch=3), dict(cfg='no python ('), dict(cfg='model = dict(x=1)')]
)
def test_what_says_nothing(meta):
    found = declared(meta, '', 'mmdet')
    assert found.traits == {} and found.inputs is None
