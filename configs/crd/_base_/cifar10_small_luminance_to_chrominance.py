# A student of chroma learns from a teacher of lightness, without labels (arXiv 1910.10699 has a
# transfer between them). It sees what its pipeline makes; the image itself stays in the sample,
# cropped and flipped alike, and the teacher sees the lightness of that.
_base_ = '../cifar10_small_chrominance_student.py'
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            pipeline=[
                *_base_.augment,
                dict(type='kdmm.ToChrominance', keep='img2'),
                dict(
                    type='PackInputs',
                    meta_keys=('sample_idx', 'img_path', 'ori_shape', 'img_shape', 'img2'),
                ),
            ]
        )
    )
)
kd = dict(
    teacher=dict(
        config='kdmm::crd/cifar10_small_luminance_teacher.py',
        checkpoint='work_dirs/cifar10_small/luminance_teacher/epoch_16.pth',
        inputs=[dict(type='SecondImage', key='img2'), dict(type='Luminance', channels=1)],
    ),
    task=0,  # no labels: the head stays as it was built, see the probe
    taps=dict(maps='backbone.tail.out', features='head.fc.in'),
)
val_dataloader = None
val_cfg = None
val_evaluator = None
