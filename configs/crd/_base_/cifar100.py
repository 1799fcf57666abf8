# Data and schedule of all runs on CIFAR-100: HSSAKD's without Nesterov's momentum.
_base_ = ['../../hssakd/_base_/cifar100.py', '../../_base_/schedules/cifar_240e.py']
optim_wrapper = dict(optimizer=dict(nesterov=False))
