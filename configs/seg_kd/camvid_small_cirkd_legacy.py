# Every term of CIRKD, queues filled as by the reference's code.
_base_ = './camvid_small_cirkd.py'
kd = dict(losses=dict(memory=dict(queue='legacy')))
