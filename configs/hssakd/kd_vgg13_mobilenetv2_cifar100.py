_base_ = ['baseline_mobilenetv2_cifar100.py', '../_base_/kd/kd_classifier.py']
kd = dict(
    teacher=dict(
        config='kdmm::hssakd/baseline_vgg13_cifar100.py',
        checkpoint='work_dirs/baseline_vgg13_cifar100/epoch_240.pth',
    )
)
