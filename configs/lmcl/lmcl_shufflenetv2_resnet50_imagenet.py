_base_ = 'lmcl_shufflenetv2_imagenet.py'
kd = dict(
    peers=['kdmm::mcl/baseline_resnet50_imagenet.py'],
    branches=dict(blocks=dict(_delete_=True, student=[2, None, None], peer1=1)),
)
