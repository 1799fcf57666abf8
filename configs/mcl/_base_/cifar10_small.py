# What all arms of docs/results/mcl_small.md share: batches of 8 classes x 8 images (the papers'
# 64 x 2 needs 64 classes).
_base_ = '../../small/cifar10/student.py'
train_dataloader = dict(
    batch_size=64,
    sampler=dict(_delete_=True, type='kdmm.PKSampler', classes_per_batch=8, samples_per_class=8),
)
