"""The backbones inside MMPretrain's classifier, and without MMPretrain."""

import subprocess
import sys

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from kdmm.models import CIFARResNet, cifar_backbone
from kdmm.registry import MODELS as KDMM_MODELS
from tests.models.backbones.networks import COUNTS, FAMILIES, backbone

CLASSES = 10


@pytest.fixture
def scope(request):
    """The default scope of a running MMPretrain job."""
    pytest.importorskip('mmpretrain').utils.register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def image_classifier(name: str, **options):
    head = dict(
        type='LinearClsHead',
        num_classes=CLASSES,
        in_channels=COUNTS[name].embedding,
        init_cfg=backbone(name).head_init,
    )
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=cifar_backbone(name, **options),
            neck=dict(type='GlobalAveragePooling'),
            head=head,
        )
    )
    model.init_weights()
    return model


def samples(*labels: int):
    from mmpretrain.structures import DataSample

    return [DataSample().set_gt_label(label) for label in labels]


@pytest.mark.usefixtures('scope')
@pytest.mark.parametrize('name', FAMILIES)
class TestImageClassifier:
    def test_loss_and_predict(self, name):
        model, x = image_classifier(name), torch.randn(2, 3, 32, 32)
        model(x, samples(3, 7), mode='loss')['loss'].backward()
        assert all(p.grad is not None for p in model.parameters())
        predicted = model.eval()(x, samples(3, 7), mode='predict')
        assert [tuple(p.pred_score.shape) for p in predicted] == [(CLASSES,)] * 2
        assert model.extract_feat(x)[-1].shape == (2, COUNTS[name].embedding)

    def test_taps_leave_the_logits_and_the_state_dict_as_they_are(self, name):
        plain = image_classifier(name).eval()
        tapped = image_classifier(name, out_indices=(0, 1, 2, -1)).eval()
        tapped.load_state_dict(plain.state_dict(), strict=True)
        x = torch.randn(2, 3, 32, 32)
        assert len(tapped.extract_feat(x, stage='backbone')) == 4
        assert torch.equal(plain(x), tapped(x))

    def test_head_starts_as_in_the_papers(self, name):
        fc = image_classifier(name).head.fc
        if name.startswith(('vgg', 'mobilenet')):
            assert fc.weight.std().item() == pytest.approx(0.01, rel=0.1)
        else:
            bound = fc.in_features**-0.5
            assert 0.9 * bound < fc.weight.abs().max().item() <= bound
        assert bool(fc.bias.any()) == name.startswith(('resnet', 'shuffle'))


@pytest.mark.usefixtures('scope')
def test_built_from_another_scope_and_registry():
    from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

    config = dict(type='kdmm.CIFARResNet', depth=8, block='basic')
    for registry in (MODELS, MMPRETRAIN_MODELS, KDMM_MODELS):
        assert type(registry.build(config)) is CIFARResNet


def test_works_without_mmpretrain():
    code = (
        "import sys; sys.modules['mmpretrain'] = None; import kdmm, torch\n"
        'from mmengine.registry import MODELS\n'
        "net = MODELS.build(dict(type='kdmm.CIFARVGG', depth=8))\n"
        'print(tuple(net(torch.zeros(2, 3, 32, 32))[0].shape))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split('\n')[0] == '(2, 512, 4, 4)', done.stderr
