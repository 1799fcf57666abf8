"""Complete checkpoints whose backbone is replaced: the arms of a transfer experiment."""

import pytest
import torch
import torchvision
from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from kdmm.transfer import ProofError, Request, convert, write_fresh
from kdmm.transfer.compose import compose
from kdmm.transfer.writing import Draft
from tests.errors import refused
from tests.transfer.nets import build, estimator, hrnet, shake

FULL = {
    'backbone.x': torch.zeros(2),
    'head.deconv.x': torch.zeros(3),
    'head.final.x': torch.tensor([torch.nan, 1.0]),
    'backbone.y': torch.zeros(1),
}
NEW = {'y': torch.ones(1), 'x': torch.ones(2)}
SOURCE = {
    'backbone.x': torch.ones(2),
    'head.deconv.x': torch.ones(3),
    'head.final.x': torch.ones(9),
}


def test_exactly_the_backbone_changes():
    made = compose(FULL, NEW, 'backbone.', SOURCE)
    assert list(made.state) == list(FULL) and sorted(made.replaced) == ['backbone.x', 'backbone.y']
    assert made.state['backbone.x'].sum() == 2 and made.state['head.deconv.x'].sum() == 0
    assert made.also == [] and made.state['head.final.x'].isnan().any()
    made.check(made.state)


def test_more_can_be_carried_over():
    made = compose(FULL, NEW, 'backbone.', SOURCE, ['head.deconv'])
    assert made.also == ['head.deconv.x'] and made.state['head.deconv.x'].sum() == 3


def test_the_kind_of_number_stays():
    made = compose(FULL, {key: value.half() for key, value in NEW.items()}, 'backbone.', {})
    assert made.state['backbone.x'].dtype == torch.float32


@pytest.mark.parametrize(
    'new, also, told',
    [
        (
            dict(x=torch.ones(2)),
            (),
            dict(problem=('its 2 entries backbone.* ', '1 missing: backbone.y')),
        ),
        (NEW | dict(z=torch.ones(2)), (), dict(problem='1 unexpected: backbone.z')),
        (
            NEW | dict(x=torch.ones(5)),
            (),
            dict(problem='1 wrong shape: backbone.x (5,) for (2,)'),
        ),
        (
            NEW | dict(x=torch.ones(2).long()),
            (),
            dict(problem='1 wrong dtype: backbone.x torch.int64 for'),
        ),
        (NEW, ['head'], dict(problem='head.final.x (9,) for (2,)')),
        (
            NEW,
            ['neck'],
            dict(got='neck.', problem='its keys start with backbone. (1), head. (2)'),
        ),
        (NEW, ['backbone'], dict(got='backbone.', problem='overlaps backbone.')),
        (NEW, ['backbone.x'], dict(got='backbone.x.', problem='overlaps')),
    ],
)
def test_what_does_not_fit_is_refused(new, also, told):
    with refused(key='--also' if 'got' in told else '--into', **told):
        compose(FULL, new, 'backbone.', SOURCE, also)


def test_what_was_written_is_checked_to_the_bit():
    made = compose(FULL, NEW, 'backbone.', SOURCE)
    for key, value in (
        ('head.deconv.x', torch.tensor([0.0, 0.0, -0.0])),
        ('backbone.x', torch.zeros(2)),
    ):
        with pytest.raises(ProofError, match=key):
            made.check(made.state | {key: value})
    with pytest.raises(ProofError, match='head.final.x'):
        made.check({key: value for key, value in made.state.items() if 'final' not in key})
    with pytest.raises(ProofError, match='more entries'):
        made.check(made.state | {'extra': torch.ones(1)})


SMALL = dict(base_channels=8, stem_channels=8)


@pytest.fixture
def files(tmp_path):
    """Makes: config and initial checkpoint of an estimator, a checkpoint of its pretext task."""

    def make(backbone: dict, channels: int):
        cfg, pretext = estimator(backbone, channels), estimator(backbone, channels, joints=9)
        cfg.dump(tmp_path / 'pose.py')
        pretext.dump(tmp_path / 'pretext.py')
        write_fresh(cfg, 0, str(tmp_path / 'full.pth'))
        model = shake(MODELS.build(ConfigDict(pretext.model, _scope_='mmpose')))
        torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=pretext.pretty_text)),
                   tmp_path / 'pretext.pth')  # fmt: skip
        return tmp_path

    return make


def go(folder, **more):
    return convert(Request(str(folder / 'pretext.pth'), 'mmpose', str(folder / 'arm.pth'),
                           into=str(folder / 'full.pth'), **more))  # fmt: skip


def state(folder, name):
    return torch.load(folder / name, weights_only=True)['state_dict']


@pytest.mark.parametrize(
    'backbone, channels, entries',
    [
        (dict(type='ResNet', depth=18, **SMALL), 64, 120),
        (hrnet(4), 4, 1752),
    ],
)
def test_exactly_the_backbone_is_replaced(files, backbone, channels, entries):
    folder = files(backbone, channels)
    report = go(folder, config=str(folder / 'pose.py'))
    assert f'{entries} of {entries} backbone entries of' in str(report)
    full, arm, pretext = (state(folder, f'{name}.pth') for name in ('full', 'arm', 'pretext'))
    assert list(arm) == list(full)
    assert sum(key.startswith('backbone.') for key in arm) == entries
    for key, value in arm.items():
        wanted = pretext if key.startswith('backbone.') else full
        assert torch.equal(value, wanted[key]), key
    assert list(torch.load(folder / 'arm.pth')) == ['state_dict']
    assert report.snippet == f'load_from = {str(folder / "arm.pth")!r}'


@pytest.mark.parametrize(
    'backbone, entries',
    [
        (hrnet(32), 1752),
        (hrnet(48), 1752),
        (dict(type='ResNet', depth=50), 318),
        (dict(type='ResNet', depth=101), 624),
        (dict(type='ResNet', depth=152), 930),
    ],
)
def test_entries_of_the_real_backbones(backbone, entries):
    with torch.device('meta'):
        assert len(build('mmpose', backbone).state_dict()) == entries


def test_more_of_the_pretext_can_be_carried_over(files):
    folder = files(dict(type='ResNet', depth=18, **SMALL), 64)
    report = go(folder, also=('head.deconv_layers',))
    full, arm, pretext = (state(folder, f'{name}.pth') for name in ('full', 'arm', 'pretext'))
    deconv = [key for key in arm if key.startswith('head.deconv_layers.')]
    assert len(deconv) == 6 and all(torch.equal(arm[key], pretext[key]) for key in deconv)
    final = [key for key in arm if key.startswith('head.final_layer.')]
    assert len(final) == 2 and all(torch.equal(arm[key], full[key]) for key in final)
    assert report.dropped == final and ', 6 of head.deconv_layers; the other 2' in str(report)


def test_never_where_shapes_differ(files):
    folder = files(dict(type='ResNet', depth=18, **SMALL), 64)
    with refused(key='--into', problem='head.final_layer.weight (9, 8, 1, 1) for (5, 8'):
        go(folder, also=('head',))
    torch.save(dict(state_dict=state(folder, 'full.pth') | {'backbone.extra': torch.ones(1)}),
               folder / 'full.pth')  # fmt: skip
    told = 'its 121 entries backbone.* ', '1 missing: backbone.e'
    with refused(key='--into', problem=told):
        go(folder)
    assert not (folder / 'arm.pth').exists()


def test_weights_of_a_classifier_make_another_arm(files, tmp_path):
    folder = files(dict(type='ResNet', depth=18), 512)
    net = shake(torchvision.models.resnet18())
    torch.save(net.state_dict(), tmp_path / 'classifier.pth')
    convert(Request(str(tmp_path / 'classifier.pth'), 'mmpose', str(tmp_path / 'arm.pth'),
                    into=str(folder / 'full.pth'), arch='resnet18'))  # fmt: skip
    arm = state(folder, 'arm.pth')
    assert torch.equal(arm['backbone.layer4.1.bn2.running_var'], net.layer4[1].bn2.running_var)


def test_the_pretext_starts_from_the_backbone_of_the_same_file(files):
    folder = files(dict(type='ResNet', depth=18, **SMALL), 64)
    out = folder / 'start.pth'
    report = convert(Request(str(folder / 'full.pth'), 'mmpose', str(out),
                             source_config=str(folder / 'pose.py')))  # fmt: skip
    assert 'BatchNorm statistics are as initialised' in str(report)
    init = dict(type='Pretrained', checkpoint=str(out))
    cfg = estimator(dict(type='ResNet', depth=18, **SMALL, init_cfg=init), 64, joints=9)
    model = MODELS.build(ConfigDict(cfg.model, _scope_='mmpose'))
    model.init_weights()
    full = state(folder, 'full.pth')
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, full[f'backbone.{key}'])


def test_what_is_damaged_on_disk_is_noticed(files, monkeypatch):
    folder = files(dict(type='ResNet', depth=18, **SMALL), 64)
    save = Draft.save

    def spoil(self, content):
        content['state_dict']['head.final_layer.bias'][0] += 1
        save(self, content)

    monkeypatch.setattr(Draft, 'save', spoil)
    with pytest.raises(ProofError, match='head.final_layer.bias is not what it was to be'):
        go(folder)
    assert not (folder / 'arm.pth').exists()


def test_what_is_no_complete_checkpoint(files):
    folder = files(dict(type='ResNet', depth=18, **SMALL), 64)
    torch.save({'x': torch.ones(1)}, folder / 'full.pth')
    with refused(key='--into', problem='its 0 entries backbone'):
        go(folder)
    other = dict(type='ResNet', depth=34, **SMALL)
    write_fresh(estimator(other, 64), 0, str(folder / 'full.pth'), force=True)
    told = (
        'its backbone is a ResNet of depth 34 and width 8, the checkpoint holds a ResNet of depth '
        '18 and width 8'
    )
    with refused(key='--into', problem=told):
        go(folder)
    (folder / 'full.pth').write_bytes(b'junk')
    with refused(key='--into', problem='truncated or no checkpoint'):
        go(folder)
