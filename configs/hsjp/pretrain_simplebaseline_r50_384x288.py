_base_ = './_base_/simplebaseline_384x288.py'
