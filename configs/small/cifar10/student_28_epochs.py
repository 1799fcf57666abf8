# The baseline for as many seconds as its CRD + KD takes for 16 epochs (docs/results/crd_small.md):
# a step of that is 1.75 times as long. Decays are at the same shares of the schedule.
_base_ = 'student.py'
param_scheduler = dict(milestones=[17, 21, 24])
train_cfg = dict(max_epochs=28, val_interval=28)
