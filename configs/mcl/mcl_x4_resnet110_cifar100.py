_base_ = ['baseline_resnet110_cifar100.py', '../_base_/kd/mcl_x4.py']
