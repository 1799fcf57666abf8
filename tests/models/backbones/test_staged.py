"""Behaviour that all families share."""

import copy
import pickle

import pytest
import torch
from torch import nn

from tests.errors import refused
from tests.models.backbones.networks import COUNTS, FAMILIES, STAGE_SHAPES, backbone

PARTS = ('stem', 'stages.0', 'stages.1', 'stages.2', 'tail')


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 3, 16, 16))


def every(name: str) -> tuple[int, ...]:
    return tuple(range(len(STAGE_SHAPES[name]) + 1))


@pytest.mark.parametrize('name', FAMILIES)
class TestFamilies:
    def test_shapes_and_channels(self, name):
        network = backbone(name, out_indices=every(name)).eval()
        outputs = network(image(1, 3, 32, 32))
        shapes = STAGE_SHAPES[name]
        assert [tuple(o.shape) for o in outputs[:-1]] == [(1, c, s, s) for c, s in shapes]
        side = shapes[-1][1]
        assert outputs[-1].shape == (1, COUNTS[name].embedding, side, side)
        assert network.stage_channels == tuple(channels for channels, _ in shapes)
        assert network.tail_channels == COUNTS[name].embedding

    def test_default_is_the_tail_and_subsets_are_the_same_tensors(self, name):
        network, x = backbone(name, out_indices=every(name)).eval(), image()
        outputs = network(x)
        for wanted in [(-1,), (0,), (1, 2), (0, -1), (0, 1, 2)]:
            part = backbone(name, out_indices=wanted).eval()
            part.load_state_dict(network.state_dict())
            torch.testing.assert_close(part(x), tuple(outputs[i] for i in wanted), rtol=0, atol=0)
        assert backbone(name).out_indices == (len(outputs) - 1,)

    def test_outputs_are_what_the_modules_of_the_same_name_give(self, name):
        network, seen = backbone(name, out_indices=every(name)).eval(), []
        for module in (*network.stages, network.tail):
            module.register_forward_hook(lambda _, __, out: seen.append(out.clone()))
        outputs = network(image())
        torch.testing.assert_close(outputs, tuple(seen), rtol=0, atol=0)

    @pytest.mark.parametrize('shape', [(2, 3, 64, 64), (2, 1, 40, 28)])
    def test_other_sizes_and_channels(self, name, shape):
        network = backbone(name, in_channels=shape[1])
        (output,) = network(image(*shape))
        assert output.shape[:2] == (2, COUNTS[name].embedding)

    def test_gradient_reaches_every_parameter(self, name):
        network = backbone(name)
        network(image())[0].square().mean().backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
            # a bias cancels where BN follows without a ReLU between
            assert parameter.grad.any() or key.endswith('bias'), key

    def test_eval_does_not_mix_images_and_train_updates_statistics(self, name):
        network, x = backbone(name).double(), image().double()
        before = {k: v.clone() for k, v in network.state_dict().items() if 'running' in k}
        network(x)
        after = network.state_dict()
        assert all(not torch.equal(before[k], after[k]) for k in before)
        network.eval()
        together, alone = network(x)[0], torch.cat([network(x[:1])[0], network(x[1:])[0]])
        torch.testing.assert_close(together, alone)
        assert torch.equal(together, network(x)[0])
        torch.testing.assert_close(after, network.state_dict(), rtol=0, atol=0)

    def test_same_seed_same_weights(self, name):
        states = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            network = backbone(name)
            network.init_weights()
            states.append(network.state_dict())
        torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
        first = next(iter(states[0]))
        assert not torch.equal(states[0][first], states[2][first])

    def test_copies_compute_the_same(self, name):
        network, x = backbone(name).eval(), image()
        for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            torch.testing.assert_close(copied(x), network(x), rtol=0, atol=0)

    @pytest.mark.parametrize('wanted', [(), (0, 0), (1, 0), (-1, 0), (9,), (0, 9), (-9,), 1])
    def test_bad_out_indices(self, name, wanted):
        last = len(STAGE_SHAPES[name])
        with refused(got=wanted, expected=f'0..{last - 1} (the stages) and {last} or -1') as caught:
            backbone(name, out_indices=wanted)
        network, _, argument = caught.value.key.partition('.')
        assert network == type(backbone(name)).__name__ and argument == 'out_indices'


class TestFrozen:
    @pytest.mark.parametrize('frozen', [-1, 0, 1, 2, 3, 4])
    def test_parts(self, frozen):
        network = backbone('wrn16_2', frozen_stages=frozen).train()
        for index, name in enumerate(PARTS):
            part = network.get_submodule(name)
            assert all(m.training == (index > frozen) for m in part.modules()), name
            assert all(p.requires_grad == (index > frozen) for p in part.parameters()), name

    def test_nothing_of_a_frozen_network_moves(self):
        network = backbone('wrn16_2', frozen_stages=4)
        before = {k: v.clone() for k, v in network.state_dict().items()}
        assert not network.train()(image())[0].requires_grad
        torch.testing.assert_close(before, network.state_dict(), rtol=0, atol=0)

    @pytest.mark.parametrize('frozen', [-2, 5])
    def test_bounds(self, frozen):
        key, told = 'CIFARWideResNet.frozen_stages', ('1..3 ', '4 (also the tail')
        with refused(key=key, got=frozen, expected=told):
            backbone('wrn16_2', frozen_stages=frozen)

    def test_norm_eval(self):
        network = backbone('resnet20', norm_eval=True).train()
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and not any(m.training for m in norms)
        assert network.training and network.stages[0].training
        assert all(m.weight.requires_grad for m in norms)


def test_parts_after_the_last_output_do_not_run():
    network = backbone('wrn16_2', out_indices=(0, 1))
    network.stages[2].register_forward_hook(lambda *_: pytest.fail('ran'))
    assert len(network(image())) == 2


def test_vgg16_has_a_stage_a_block_and_a_pooling_behind_the_last():
    network = backbone('vgg16', out_indices=range(6)).eval()
    sizes = [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2)]
    outputs = network(image(1, 3, 32, 32))
    assert [tuple(o.shape) for o in outputs] == [(1, c, s, s) for c, s in [*sizes, (512, 1)]]
    assert torch.equal(outputs[-1], outputs[-2].amax((2, 3), keepdim=True))
    assert (network.stage_channels, network.tail_channels) == ((64, 128, 256, 512, 512), 512)
