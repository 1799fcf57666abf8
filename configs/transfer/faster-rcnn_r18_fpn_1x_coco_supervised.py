_base_ = ['_base_/faster-rcnn_r18_fpn_1x_coco.py', '_base_/pretrained.py']
