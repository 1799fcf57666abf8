# Joints, from whatever weights load_from names: a complete checkpoint, one for each arm.
_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192.py'
model = dict(backbone=dict(init_cfg=None))
strict_load = True
# all arms see the same crops in the same order
reproducible = True
