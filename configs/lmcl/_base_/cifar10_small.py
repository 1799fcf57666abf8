# What all arms share: network and images of the arms of MCL-OKD, which are learnt by heart, in
# batches of 8 classes x 8 images, so that images of a class meet.
_base_ = '../../mcl_okd/_base_/cifar10_small.py'
train_dataloader = dict(
    batch_size=64,
    sampler=dict(_delete_=True, type='kdmm.PKSampler', classes_per_batch=8, samples_per_class=8),
)
