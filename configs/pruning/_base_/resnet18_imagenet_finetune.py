# From the base library's trained network, at a tenth of the rate.
_base_ = '../dense_resnet18_imagenet.py'
load_from = (
    'https://mmassets.onedl.ai/mmclassification/v0/resnet/resnet18_8xb32_in1k_20210831-fbbb1da6.pth'
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
