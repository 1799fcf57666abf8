# Joints, from whatever weights load_from names: a complete checkpoint of this network.
_base_ = './_base_.py'
strict_load = True
