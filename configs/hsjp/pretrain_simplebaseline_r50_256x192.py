_base_ = './_base_/simplebaseline_256x192.py'
