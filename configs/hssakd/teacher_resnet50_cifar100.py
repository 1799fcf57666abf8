_base_ = ['../_base_/models/cifar/resnet50.py', '_base_/teacher_cifar100.py']
load_from = 'work_dirs/baseline_resnet50_cifar100/epoch_240.pth'
