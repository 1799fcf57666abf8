# MCL of four branches, on batches of 8 classes x 8 images.
_base_ = ['_base_/cifar10_small.py', '../_base_/kd/mcl_x4.py']
train_dataloader = dict(
    sampler=dict(_delete_=True, type='kdmm.PKSampler', classes_per_batch=8, samples_per_class=8),
)
kd = dict(channels_last=True)
