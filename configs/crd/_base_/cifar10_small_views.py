# Lightness and chroma of the files of CIFAR-10, for the runs luminance -> chrominance: names that
# the configs above read. L* counts 0 to 255; a* and b* have 128 added.
luminance = dict(mean=[129.58], std=[61.75], to_rgb=False)
chrominance = dict(mean=[128.32, 133.68], std=[9.68, 15.40], to_rgb=False)
augment = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=32, padding=4, pad_val=0),  # black
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
]
load = [dict(type='LoadImageFromFile')]
