_base_ = './_base_/hrnet_256x192.py'
