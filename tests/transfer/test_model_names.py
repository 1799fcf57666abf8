import pytest
import timm
import torch
import torchvision

from kdmm.errors import ConfigError
from kdmm.transfer import model_names


@pytest.mark.parametrize('library', ['torchvision', 'timm'])
def test_unknown_models_and_their_nearest(library):
    model_names.check_name(library, 'resnet50')
    with pytest.raises(
        ConfigError, match=f"{library} has no model 'resnet5o'; nearest: .*resnet50"
    ):
        model_names.check_name(library, 'resnet5o')


@pytest.mark.parametrize(
    'library, name', [('torchvision', 'resnet18'), ('timm', 'resnet18'), ('torchvision', 'vgg11')]
)
def test_without_a_classifier(library, name):
    with torch.device('meta'):
        keys = set(model_names.build(library, name).state_dict())
        whole = (
            torchvision.models.get_model(name)
            if library == 'torchvision'
            else timm.create_model(name)
        ).state_dict()
    assert keys < set(whole)
    assert {key.split('.')[0] for key in set(whole) - keys} <= {'fc', 'classifier'}


@pytest.mark.parametrize('library', ['torchvision', 'timm'])
def test_the_code_that_is_printed_loads_the_file(library, tmp_path):
    net = model_names.build(library, 'resnet18')
    torch.save(net.state_dict(), tmp_path / 'a.pth')
    scope: dict = {}
    exec(model_names.code(library, 'resnet18', str(tmp_path / 'a.pth')), scope)
    assert all(map(torch.equal, net.state_dict().values(), scope['model'].state_dict().values()))
    loaded = model_names.load(library, 'resnet18', str(tmp_path / 'a.pth'))
    assert torch.equal(loaded.conv1.weight, net.conv1.weight)


def test_inputs():
    assert model_names.inputs('torchvision', 'resnet18')['mean'] == [123.675, 116.28, 103.53]
    assert model_names.inputs('timm', 'resnet18')['std'] == pytest.approx([58.395, 57.12, 57.375])
    assert model_names.inputs('timm', 'tf_efficientnet_b0.ap_in1k') == dict(
        mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True
    )
