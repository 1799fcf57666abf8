_base_ = './kd/cirkd.py'
_deprecation_ = dict(expected='kdmm::_base_/kd/cirkd.py')
