# Joints, from whatever weights load_from names: a complete checkpoint, one for each arm.
_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w48_8xb32-210e_coco-384x288.py'
model = dict(backbone=dict(init_cfg=None))
strict_load = True
# all arms see the same crops in the same order
reproducible = True
