_base_ = ['../_base_/models/cifar/wrn40_2.py', '_base_/teacher_cifar100.py']
load_from = 'work_dirs/baseline_wrn40_2_cifar100/epoch_240.pth'
