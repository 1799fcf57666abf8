_base_ = ['baseline_mobilenetv2_cifar100.py', '../_base_/kd/crd.py']
kd = dict(
    teacher=dict(
        config='kdmm::crd/baseline_vgg13_cifar100.py',
        checkpoint='work_dirs/baseline_vgg13_cifar100/epoch_240.pth',
    )
)
