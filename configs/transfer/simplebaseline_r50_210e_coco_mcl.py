_base_ = 'mmpose::body_2d_keypoint/topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192.py'
custom_imports = dict(imports=['kdmm'], allow_failed_imports=False)
custom_hooks = [*_base_.custom_hooks, dict(type='kdmm.PretrainedBackboneHook')]
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='work_dirs/transfer/mcl_r50.pth'))
)
