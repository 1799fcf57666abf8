# From the base library's trained network, at a tenth of the rate.
_base_ = '../dense_resnet50_imagenet.py'
load_from = (
    'https://mmassets.onedl.ai/mmclassification/v0/resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth'
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
