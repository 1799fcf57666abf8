"""Whole conversions: real networks of every library, judged by what a user's own build computes."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

from kdmm.pretrained import mapping
from kdmm.pretrained.checkpoint import transfer_entry
from kdmm.transfer import ProofError, Request, convert
from kdmm.transfer.writing import Draft
from tests.errors import refused
from tests.transfer.nets import (
    MM,
    RGB,
    build,
    config_of,
    hrnet,
    loaded,
    maps,
    same,
    shake,
    source,
    write_config,
)

R18 = dict(type='ResNet', depth=18)
NARROW = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
R50 = dict(type='ResNet', depth=50)


@pytest.fixture(scope='module')
def shelf(tmp_path_factory) -> Path:
    """Checkpoints that several tests read."""
    folder = tmp_path_factory.mktemp('shelf')
    for library in MM:
        source(library, NARROW, folder / f'{library}.pth')
    for library in ('mmpose', 'mmseg'):
        source(library, R18, folder / f'{library}18.pth')
    source('mmdet', R50, folder / 'mmdet50.pth')
    for name in ('resnet18', 'resnet50'):
        torch.save(shake(torchvision.models.get_model(name)).state_dict(), folder / f'{name}.pth')
    return folder


def go(checkpoint: Path, to: str, out: Path, **more):
    return convert(Request(str(checkpoint), to, str(out), **more))


def target(library: str, config: dict) -> dict | str:
    zoo = library in ('torchvision', 'timm')
    return f'resnet{config["depth"]}' if zoo else config


def expected(library: str, config: dict, path: Path) -> nn.Module:
    """The source network with the weights of its checkpoint."""
    net = build(library, config)
    state = torch.load(path, weights_only=False)['state_dict']
    net.load_state_dict({key.removeprefix('backbone.'): value for key, value in state.items()
                         if key.startswith('backbone.')})  # fmt: skip
    return net


@pytest.mark.parametrize(
    'library, to',
    [
        ('mmpose', 'mmseg'),
        ('mmseg', 'mmdet'),
        ('mmdet', 'mmpretrain'),
        ('mmpretrain', 'mmpose'),
        ('mmdet', 'mmdet'),
        ('mmpose', 'torchvision'),
        ('mmseg', 'timm'),
    ],
)
def test_a_resnet_18_computes_the_same_in_every_library(shelf, tmp_path, library, to):
    """Every library is a source and a target."""
    size, config = ('', NARROW) if to in MM else ('18', R18)
    path, out = shelf / f'{library}{size}.pth', tmp_path / 'out.pth'
    report = go(path, to, out)
    assert same(maps(expected(library, config, path)), maps(loaded(to, target(to, config), out)))
    assert len(report.keys) == 120 and report.proof.difference == 0
    assert report.dropped == ['head.fc.weight']
    assert f'120 of 120 keys of {to}' in str(report)
    assert len(torch.load(out, weights_only=True)) == (2 if to in MM else 120)  # flat


def test_so_does_a_resnet_50(shelf, tmp_path):
    path, out = shelf / 'mmdet50.pth', tmp_path / 'out.pth'
    report = go(path, 'timm', out)
    assert same(maps(expected('mmdet', R50, path)), maps(loaded('timm', 'resnet50', out)))
    assert len(report.keys) == 318


def test_a_file_of_torchvision_is_named_by_arch(shelf, tmp_path):
    path, out = shelf / 'resnet50.pth', tmp_path / 'out.pth'
    report = go(path, 'mmseg', out, arch='resnet50')
    net = torchvision.models.resnet50()
    net.load_state_dict(torch.load(path))
    assert same(maps(net.eval()), maps(loaded('mmseg', R50, out)))
    assert sorted(report.dropped) == ['fc.bias', 'fc.weight']


def test_the_files_weights_are_owned_contiguous_and_the_same_again(shelf, tmp_path):
    out, again = tmp_path / 'out.pth', tmp_path / 'again.pth'
    state = torch.load(shelf / 'mmdet.pth', weights_only=False)['state_dict']
    whole = torch.zeros(2, *state['backbone.conv1.weight'].shape)
    whole[0] = state['backbone.conv1.weight']
    state['backbone.conv1.weight'] = whole[0]  # a view
    state['backbone.layer1.0.conv1.weight'] = state['backbone.layer1.0.conv1.weight'].to(
        memory_format=torch.channels_last
    )
    state['backbone.layer1.1.bn1.weight'] = state['backbone.layer1.0.bn1.weight']  # shared
    torch.save(dict(state_dict=state), tmp_path / 'in.pth')
    config = write_config(tmp_path / 'c.py', 'mmdet', NARROW)
    go(tmp_path / 'in.pth', 'mmdet', out, source_config=config)
    written = torch.load(out, weights_only=True)['state_dict']
    storages = {value.untyped_storage().data_ptr() for value in written.values()}
    assert len(storages) == len(written) == 120
    for key, value in written.items():
        assert torch.equal(value, state[f'backbone.{key}']) and value.is_contiguous()
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
    go(out, 'mmdet', again, source_config=config)
    assert again.read_bytes() == out.read_bytes()


def test_half_precision_is_kept(shelf, tmp_path):
    content = torch.load(shelf / 'mmdet.pth', weights_only=False)
    for key, value in content['state_dict'].items():
        content['state_dict'][key] = value.half() if value.is_floating_point() else value
    torch.save(content, tmp_path / 'in.pth')
    go(tmp_path / 'in.pth', 'mmdet', tmp_path / 'out.pth')
    assert torch.load(tmp_path / 'out.pth')['state_dict']['conv1.weight'].dtype == torch.float16


def test_dilation_strides_and_frozen_stages_do_not_matter(tmp_path):
    narrow = dict(depth=50, base_channels=8)
    dilated = dict(type='ResNetV1c', **narrow, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1),
                   contract_dilation=True, norm_cfg=dict(type='SyncBN'))  # fmt: skip
    net = source('mmseg', dilated, tmp_path / 'in.pth')
    deep = dict(type='ResNetV1c', **narrow, frozen_stages=2, norm_eval=True, with_cp=True)
    config = write_config(tmp_path / 'c.py', 'mmpretrain', deep)
    go(tmp_path / 'in.pth', 'mmpretrain', tmp_path / 'out.pth', config=config)
    back = write_config(tmp_path / 'd.py', 'mmseg', dilated)
    go(tmp_path / 'out.pth', 'mmseg', tmp_path / 'back.pth', source_config=config, config=back)
    assert same(maps(net), maps(loaded('mmseg', dilated, tmp_path / 'back.pth')))


@pytest.mark.parametrize('library, to', [('mmpretrain', 'mmdet'), ('mmseg', 'mmpose')])
def test_a_deep_stem_and_pooling_shortcuts_have_other_names(tmp_path, library, to):
    config = NARROW | dict(type='ResNetV1d')
    net = source(library, config, tmp_path / 'in.pth')
    go(tmp_path / 'in.pth', to, tmp_path / 'out.pth')
    assert same(maps(net), maps(loaded(to, config, tmp_path / 'out.pth')))
    assert set(torch.load(tmp_path / 'out.pth')) != set(net.state_dict())


def test_in_timm_they_have_names_of_their_own(tmp_path):
    net = source('mmdet', dict(type='ResNetV1d', depth=18), tmp_path / 'in.pth')
    go(tmp_path / 'in.pth', 'timm', tmp_path / 'out.pth')
    assert same(maps(net), maps(loaded('timm', 'resnet18d', tmp_path / 'out.pth')))


def test_an_hrnet_goes_to_every_library_that_scales_up_alike(tmp_path):
    net = source('mmpretrain', hrnet(), tmp_path / 'in.pth')
    report = go(tmp_path / 'in.pth', 'mmdet', tmp_path / 'det.pth')
    assert len(report.keys) == 1830
    assert same(maps(net), maps(loaded('mmdet', hrnet(), tmp_path / 'det.pth')))
    with refused(key='upsample', problem=('the source ', ' nearest, ', ' bilinear')):
        go(tmp_path / 'in.pth', 'mmseg', tmp_path / 'seg.pth')
    assert not (tmp_path / 'seg.pth').exists()
    report = go(tmp_path / 'in.pth', 'mmseg', tmp_path / 'seg.pth', accept=('upsample',))
    assert report.proof.difference > 1e-3 and 'NOT equal, as accepted' in str(report)


def test_timm_has_the_standard_hrnets(tmp_path):
    net = source('mmpretrain', dict(type='HRNet', arch='w18'), tmp_path / 'in.pth')
    go(tmp_path / 'in.pth', 'timm', tmp_path / 'timm.pth')
    features = timm.create_model('hrnet_w18', features_only=True, feature_location='',
                                 checkpoint_path=str(tmp_path / 'timm.pth'))  # fmt: skip
    assert same(maps(net), maps(features.eval()))


def test_an_hrnet_of_one_output_lacks_what_four_need_but_not_the_reverse(tmp_path):
    source('mmpose', hrnet(), tmp_path / 'one.pth')
    told = (
        '78 missing: stage4.2.fuse_layers.1.0',
        ' and 70 more; they belong to outputs that the source does not have',
    )
    with refused(problem=told):
        go(tmp_path / 'one.pth', 'mmdet', tmp_path / 'out.pth')
    four = source('mmdet', hrnet(), tmp_path / 'four.pth')
    report = go(tmp_path / 'four.pth', 'mmpose', tmp_path / 'first.pth')
    assert same(maps(four)[:1], maps(loaded('mmpose', hrnet(), tmp_path / 'first.pth')))
    assert '78 of outputs that the target does not have' in str(report)


def test_an_hrnet_of_mmpose_may_scale_up_as_mmseg_does(tmp_path):
    bilinear = hrnet(all_outputs=True, upsample=dict(mode='bilinear', align_corners=False))
    net = source('mmpose', bilinear, tmp_path / 'in.pth')
    go(tmp_path / 'in.pth', 'mmseg', tmp_path / 'seg.pth')
    assert same(maps(net), maps(loaded('mmseg', hrnet(), tmp_path / 'seg.pth')))


def test_old_files_without_batch_counters_get_zeros(shelf, tmp_path):
    content = torch.load(shelf / 'mmpose.pth', weights_only=False)
    state = content['state_dict']
    content['state_dict'] = {key: state[key] for key in state if 'tracked' not in key}
    torch.save(content, tmp_path / 'old.pth')
    report = go(tmp_path / 'old.pth', 'mmdet', tmp_path / 'out.pth')
    assert len(report.filled) == 20 and '20 num_batches_tracked' in str(report)
    assert torch.load(tmp_path / 'out.pth')['state_dict']['bn1.num_batches_tracked'] == 0


def test_a_wrong_mapping_does_not_survive_the_proof(shelf, tmp_path, monkeypatch):
    right = mapping.KeyMap.complete

    def wrong(self, state):
        done = right(self, state)
        names = 'layer2.1.conv1.weight', 'layer2.1.conv2.weight'
        if all(name in done for name in names):
            done[names[0]], done[names[1]] = done[names[1]], done[names[0]]
        return done

    monkeypatch.setattr(mapping.KeyMap, 'complete', wrong)
    (tmp_path / 'out.pth').write_bytes(b'older')
    with pytest.raises(ProofError, match='the features differ by'):
        go(shelf / 'mmdet.pth', 'mmpose', tmp_path / 'out.pth', force=True)
    assert [file.name for file in tmp_path.iterdir()] == ['out.pth']
    assert (tmp_path / 'out.pth').read_bytes() == b'older'


def test_nor_does_one_that_the_weights_hide(tmp_path, monkeypatch):
    """Two blocks whose last norm is 0, as they are initialised, may be swapped unseen."""
    net = build('mmdet', NARROW)
    net.init_weights()
    torch.save(net.state_dict(), tmp_path / 'in.pth')
    config = write_config(tmp_path / 'c.py', 'mmdet', NARROW)
    right = mapping.map_keys

    def wrong(*args, **more):
        found = right(*args, **more)
        first, second = 'layer2.1.conv1.weight', 'layer2.1.conv2.weight'
        if args[-1].startswith('it does not fill'):
            found.pairs[first], found.pairs[second] = second, first
        return found

    monkeypatch.setattr('kdmm.transfer.plan.map_keys', wrong)
    with pytest.raises(ProofError, match='the features differ by'):
        go(tmp_path / 'in.pth', 'mmpose', tmp_path / 'out.pth', source_config=config)


def test_a_library_that_does_not_load_the_file_is_noticed(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr('mmdet.models.backbones.ResNet.init_weights', lambda self: None)
    with pytest.raises(ProofError, match='mmdet did not load conv1.weight from the file'):
        go(shelf / 'mmpose.pth', 'mmdet', tmp_path / 'out.pth')
    assert not list(tmp_path.iterdir())


def test_what_is_damaged_on_disk_is_noticed(shelf, tmp_path, monkeypatch):
    save = Draft.save

    def spoil(self, content):
        content['state_dict']['bn1.weight'] *= 2
        save(self, content)

    monkeypatch.setattr(Draft, 'save', spoil)
    with pytest.raises(ProofError, match='the features differ'):
        go(shelf / 'mmpose.pth', 'mmdet', tmp_path / 'out.pth')
    assert not list(tmp_path.iterdir())


@MODELS.register_module()
class TransferTestNet(BaseModule):
    """A backbone of a user, which no table knows."""

    def __init__(self, width: int, slope: float = 0.1, strides=(2,), init_cfg=None) -> None:
        super().__init__(init_cfg)
        self.slope = slope
        self.stem = nn.Conv2d(3, width, 3, strides[0])
        self.body = nn.Conv2d(width, width, 3)

    def forward(self, x):
        return (self.body(nn.functional.leaky_relu(self.stem(x), self.slope)),)


@MODELS.register_module()
class TransferTestModule(nn.Module):
    """One that MMEngine cannot initialise."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.body(x)


def test_a_backbone_that_no_table_knows_is_converted_by_its_names(tmp_path):
    config = dict(type='TransferTestNet', width=6)
    net = source('mmdet', config, tmp_path / 'in.pth')
    report = go(tmp_path / 'in.pth', 'mmseg', tmp_path / 'out.pth')
    image = torch.randn(1, 3, 20, 20)
    assert torch.equal(net(image)[0], loaded('mmseg', config, tmp_path / 'out.pth')(image)[0])
    assert 'mmseg TransferTestNet' in str(report)
    other = write_config(tmp_path / 'c.py', 'mmseg', config | dict(slope=0.3))
    with pytest.raises(ProofError, match=r'the features differ.*other in their configs: slope'):
        go(tmp_path / 'in.pth', 'mmseg', tmp_path / 'out2.pth', config=other)
    wider = write_config(tmp_path / 'd.py', 'mmseg', config | dict(width=8))
    with refused(problem='4 wrong shape: stem.weight (6, 3, 3, 3) for (8, 3, 3, 3), stem.bias'):
        go(tmp_path / 'in.pth', 'mmseg', tmp_path / 'out2.pth', config=wider)


def test_a_plain_module_gets_python_to_load_it(tmp_path):
    config = dict(type='TransferTestModule')
    net = source('mmdet', config, tmp_path / 'in.pth')
    report = go(tmp_path / 'in.pth', 'mmseg', tmp_path / 'out.pth')
    model = nn.ModuleDict(dict(backbone=TransferTestModule()))
    exec(report.snippet, dict(model=model, torch=torch))
    assert torch.equal(net.body.weight, model.backbone.body.weight)


def test_inputs_that_differ_are_warned_of(shelf, tmp_path):
    config = write_config(tmp_path / 'c.py', 'mmdet', NARROW)
    assert not go(shelf / 'mmpose.pth', 'mmdet', tmp_path / '1.pth', config=config).warnings
    cfg = config_of(
        'mmdet', NARROW, mean=[103.53, 116.28, 123.675], std=[1, 1, 1], bgr_to_rgb=False
    )
    cfg.dump(tmp_path / 'bgr.py')
    report = go(shelf / 'mmpose.pth', 'mmdet', tmp_path / '2.pth', config=str(tmp_path / 'bgr.py'))
    assert 'trained on RGB, mean (123.675' in report.warnings[0]
    assert 'prepares BGR, mean (103.53, 116.28, 123.675), std (1, 1, 1)' in report.warnings[0]


def plain(value: Any) -> bool:
    """As JSON knows it."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (str, int, float, bool)


def written(checkpoint: Path, to: str = 'mmdet', out: str = 'out.pth', **more: Any) -> dict:
    """Content of the converted file."""
    go(checkpoint, to, checkpoint.parent / out, **more)
    return torch.load(checkpoint.parent / out, weights_only=True)


def test_a_file_states_where_it_is_from_and_for_which_images(tmp_path):
    source('mmpretrain', NARROW, tmp_path / 'epoch_90.pth')
    content = written(tmp_path / 'epoch_90.pth')
    assert list(content) == ['state_dict', 'meta'] and plain(content['meta'])
    entry = transfer_entry(content['meta'])
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
    assert transfer_entry(written(tmp_path / 'in.pth')['meta'])['inputs'] is None
    named = written(tmp_path / 'in.pth', out='named.pth', arch='resnet18')
    assert transfer_entry(named['meta'])['inputs'] == RGB


def test_a_bottleneck_that_was_converted_needs_no_name(tmp_path):
    """It states its style; a second conversion changes nothing."""
    source('mmpretrain', R50, tmp_path / 'in.pth', mean=[1.0, 2.0, 3.0])
    first = written(tmp_path / 'in.pth', 'mmpose')
    again = written(tmp_path / 'out.pth', 'mmpose', 'again.pth')
    for key, value in first['state_dict'].items():
        assert torch.equal(value, again['state_dict'][key])
    entry = transfer_entry(again['meta'])
    assert entry['inputs']['mean'] == [1, 2, 3] and entry['traits']['style'] == 'pytorch'
    kept = transfer_entry(first['meta'])['source']
    assert entry['source'] == kept and kept['file'] == 'in.pth'
