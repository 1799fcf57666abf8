_base_ = ['../_base_/models/cifar/resnet32x4.py', '_base_/teacher_cifar100.py']
load_from = 'work_dirs/baseline_resnet32x4_cifar100/epoch_240.pth'
