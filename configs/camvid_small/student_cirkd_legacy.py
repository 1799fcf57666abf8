# The student with all terms of CIRKD, queues filled as by the reference's code.
_base_ = './student_cirkd.py'
kd = dict(losses=dict(memory=dict(queue='legacy')))
