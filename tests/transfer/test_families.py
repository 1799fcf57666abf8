import torchvision
from torch import nn

from kdmm.transfer.families import OTHER, family_of
from tests.transfer.nets import build, hrnet

DEEP = dict(
    type='ResNet', depth=18, base_channels=8, stem_channels=8, deep_stem=True, avg_down=True
)


def test_families_go_by_the_names_of_classes():
    resnet = family_of(build('mmpretrain', DEEP))
    assert resnet is family_of(torchvision.models.resnet18())
    assert resnet is family_of(build('mmpretrain', dict(type='ResNet_CIFAR', depth=18)))
    assert family_of(build('mmpose', hrnet())) is not resnet
    assert family_of(nn.Linear(2, 2)) is OTHER


def test_heads_are_parts_of_their_own():
    family = family_of(build('mmpose', hrnet()))
    assert family.is_head('incre_modules.0.weight') and not family.is_head('layer1.0.fc.weight')
    assert not OTHER.is_head('incre_modules.0.weight') and OTHER.is_head('fc.weight')
