_base_ = ['baseline_resnet20_cifar100.py', '../_base_/kd/crd.py']
kd = dict(
    teacher=dict(
        config='kdmm::crd/baseline_resnet56_cifar100.py',
        checkpoint='work_dirs/baseline_resnet56_cifar100/epoch_240.pth',
    )
)
