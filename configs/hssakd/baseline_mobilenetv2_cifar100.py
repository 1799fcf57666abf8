_base_ = [
    '../_base_/models/cifar/mobilenetv2_stride1.py',
    '../_base_/schedules/cifar_240e_light.py',
    '_base_/cifar100.py',
]
