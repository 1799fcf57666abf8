_base_ = './kd/cirkd_segformer.py'
_deprecation_ = dict(expected='kdmm::_base_/kd/cirkd_segformer.py')
