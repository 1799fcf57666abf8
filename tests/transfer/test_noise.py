import torch

from kdmm.transfer.noise import noise_like
from tests.transfer.nets import build, hrnet, maps


def test_is_always_the_same_and_leaves_no_weight_out():
    state = build('mmdet', dict(type='ResNet', depth=18, base_channels=8)).state_dict()
    first, second = noise_like(state), noise_like(state)
    for key, value in first.items():
        assert torch.equal(value, second[key]) and value.shape == state[key].shape
        if value.is_floating_point():
            assert not torch.equal(value, state[key]) and (value != 0).all()
        else:
            assert torch.equal(value, state[key])
        if key.endswith('running_var'):
            assert value.min() > 0


def test_deep_networks_stay_finite():
    for config in (dict(type='ResNet', depth=152, base_channels=8, stem_channels=8), hrnet()):
        net = build('mmdet', config)
        net.load_state_dict(noise_like(net.state_dict()))
        assert all(x.isfinite().all() and x.abs().max() > 0 for x in maps(net, (32, 32)))
