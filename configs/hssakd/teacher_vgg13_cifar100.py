_base_ = ['../_base_/models/cifar/vgg13.py', '_base_/teacher_cifar100.py']
load_from = 'work_dirs/baseline_vgg13_cifar100/epoch_240.pth'
