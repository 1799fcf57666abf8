# The reference's schedule: one parameter group, poly to 0, no warm-up; 16 images on 8 devices.
_base_ = 'mmseg::_base_/schedules/schedule_40k.py'
optimizer = dict(lr=0.02, weight_decay=1e-4)
optim_wrapper = dict(optimizer=optimizer)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=40000, by_epoch=False)]
train_cfg = dict(val_interval=800)
default_hooks = dict(checkpoint=dict(interval=800, max_keep_ckpts=2, save_best='mIoU'))
# another total batch: --cfg-options auto_scale_lr.enable=True
auto_scale_lr = dict(enable=False, base_batch_size=16)
