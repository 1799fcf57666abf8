# 5,000 images, so K is a third of them as on CIFAR-100.
_base_ = ['../small/cifar10/student.py', '../_base_/kd/crd.py']
kd = dict(
    teacher=dict(
        config='kdmm::small/cifar10/teacher.py',
        checkpoint='work_dirs/cifar10_small/teacher/epoch_16.pth',
    ),
    losses=dict(crd=dict(num_samples=5000, negatives=1638)),
)
