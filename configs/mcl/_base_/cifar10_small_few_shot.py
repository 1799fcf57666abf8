# What the few-shot arms share: batches of the 5 base classes x 12 images. Splits and evaluation
# are explained in the config that this one inherits.
_base_ = '../../small/cifar10/few_shot.py'
train_dataloader = dict(
    batch_size=60,
    sampler=dict(_delete_=True, type='kdmm.PKSampler', classes_per_batch=5, samples_per_class=12),
)
