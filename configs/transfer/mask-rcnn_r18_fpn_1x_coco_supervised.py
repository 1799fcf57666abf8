_base_ = ['_base_/mask-rcnn_r18_fpn_1x_coco.py', '_base_/pretrained.py']
