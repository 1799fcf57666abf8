# MCL-OKD, at its learning rate and batch.
_base_ = ['cifar100.py', '../../_base_/kd/mcl_okd.py']
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=0.05))
auto_scale_lr = dict(base_batch_size=64)
