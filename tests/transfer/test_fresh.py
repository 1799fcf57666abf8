import torch
from mmengine.config import Config, ConfigDict

from kdmm.transfer import fresh_state, write_fresh
from tests.errors import refused
from tests.transfer.nets import estimator, hrnet

LOADS = dict(type='Pretrained', checkpoint='nowhere.pth')
KAIMING = dict(type='Kaiming', layer='Conv2d')


RESNET = dict(type='ResNet', depth=50, base_channels=2, stem_channels=2)


def test_the_class_initialises_what_the_file_would_have():
    pretrained = fresh_state(estimator(RESNET | dict(init_cfg=LOADS), 64), 1)
    plain = fresh_state(estimator(RESNET, 64), 1)
    assert list(pretrained) == list(plain)
    assert all(map(torch.equal, pretrained.values(), plain.values()))
    assert pretrained['backbone.layer1.0.bn3.weight'].abs().max() == 0  # zero_init_residual
    conv = fresh_state(estimator(hrnet() | dict(init_cfg=LOADS), 4), 1)['backbone.conv1.weight']
    assert 0.0005 < conv.std() < 0.002  # mmpose's own Normal(0.001)


def test_a_seed_is_a_file(tmp_path):
    cfg = estimator(RESNET | dict(init_cfg=LOADS))
    sizes = [write_fresh(cfg, seed, str(tmp_path / name), force=True)
             for seed, name in ((3, 'a.pth'), (4, 'b.pth'), (3, 'c.pth'))]  # fmt: skip
    one, other, again = ((tmp_path / f'{name}.pth').read_bytes() for name in 'abc')
    assert one == again != other and len(set(sizes)) == 1
    content = torch.load(tmp_path / 'a.pth', weights_only=True)
    assert list(content) == ['state_dict'] and len(content['state_dict']) == sizes[0]
    assert sum(key.startswith('backbone.') for key in content['state_dict']) == 318


def test_it_loads_strictly_into_the_model(tmp_path):
    from mmengine.registry import MODELS

    cfg = estimator(RESNET)
    write_fresh(cfg, 0, str(tmp_path / 'a.pth'))
    model = MODELS.build(ConfigDict(cfg.model, _scope_='mmpose'))
    model.load_state_dict(torch.load(tmp_path / 'a.pth')['state_dict'], strict=True)


def test_wrong_configs(tmp_path):
    out = str(tmp_path / 'a.pth')
    with refused(key='config', problem='has no model'):
        write_fresh(Config({}), 0, out)
    with refused(key='model.backbone', problem=('ResNet', 'invalid depth 51')):
        write_fresh(estimator(RESNET | dict(depth=51)), 0, out)
    with refused(key='config', problem='mmnowhere is not installed'):
        write_fresh(Config(dict(default_scope='mmnowhere', model={})), 0, out)
    (tmp_path / 'a.pth').touch()
    with refused(key='--out', got=out, fix='--force'):
        write_fresh(estimator(RESNET), 0, out)
