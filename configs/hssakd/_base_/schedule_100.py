# Branches behind a frozen network.
_base_ = 'schedule_240.py'
param_scheduler = dict(milestones=[30, 60, 90])
train_cfg = dict(max_epochs=100)
