_base_ = './_base_/hrnet_384x288.py'
