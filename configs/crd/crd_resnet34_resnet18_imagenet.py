# ImageNet, 8 GPUs with 32 images. Negatives are drawn with replacement: otherwise 1.28 million
# numbers would be compared for each image.
_base_ = ['../hssakd/_base_/resnet18_imagenet.py', '../_base_/kd/crd.py']
kd = dict(
    teacher=dict(config='mmpretrain::resnet/resnet34_8xb32_in1k.py', checkpoint='zoo'),
    losses=dict(crd=dict(num_samples=1281167, replace=True)),
)
