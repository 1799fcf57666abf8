# Every term, with the reference's queues instead of class queues (README).
_base_ = './deeplab_r101_r18_cityscapes.py'
kd = dict(losses=dict(memory=dict(queue='legacy')))
