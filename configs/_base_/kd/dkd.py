# DKD (arXiv 2203.08679) as mdistiller has it on CIFAR-100: T = 4, weights that grow over 20 epochs.
# The weight of `others` belongs to the pair. CIFAR-100: 8 for ResNet-32x4 to ResNet-8x4 and
# ShuffleNets, WRN-40-2 to ShuffleNetV1 and ResNet-50 to MobileNetV2; 6 for WRN-40-2 to WRN-16-2 and
# WRN-40-1, and VGG-13 to VGG-8 and MobileNetV2; 2 for ResNet-56 to -20 and ResNet-110 to -32.
# ImageNet, T = 1 and one epoch of growth: 0.5 for ResNet-34 to -18, 2 for ResNet-50 to MobileNetV1.
kd = dict(
    taps=dict(logits='head.fc.out'),
    losses=dict(
        dkd=dict(
            type='DKDLoss',
            on='logits',
            temperature=4.0,
            weight=dict(
                target=dict(type='Linear', start=0.0, stop=1.0, end=20, unit='epoch'),
                others=dict(type='Linear', start=0.0, stop=8.0, end=20, unit='epoch'),
            ),
        )
    ),
)
