# 100 epochs, decays after 30, 60 and 90; batch 256 in all. The branch behind the stem's pooling has
# two units a stage, the halving one and a basic one; those behind the stages have all.
_base_ = ['../mcl/baseline_shufflenetv2_imagenet.py', '../_base_/kd/lmcl_imagenet.py']
optim_wrapper = dict(optimizer=dict(nesterov=True))
param_scheduler = dict(milestones=[30, 60, 90])
train_cfg = dict(max_epochs=100)
kd = dict(branches=dict(blocks=[2, None, None]))
