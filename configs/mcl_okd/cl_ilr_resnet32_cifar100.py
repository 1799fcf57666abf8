# The authors of MCL-OKD give labels and the others' logits half the weight each.
_base_ = ['baseline_resnet32_cifar100.py', '../_base_/kd/cl_ilr.py']
model = dict(head=dict(loss=dict(loss_weight=0.5)))
kd = dict(losses=dict(cl=dict(weight=0.5)))
