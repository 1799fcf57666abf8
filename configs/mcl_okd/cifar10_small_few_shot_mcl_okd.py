# Few-shot evaluation of MCL-OKD, beside the cohorts of configs/mcl/cifar10_small_few_shot_*.py and
# the network alone, configs/small/cifar10/few_shot.py, which explains splits and evaluation.
_base_ = ['../small/cifar10/few_shot.py', '../_base_/kd/mcl_okd.py']
kd = dict(losses=dict(contrast=dict(num_samples=2500)), channels_last=True)
