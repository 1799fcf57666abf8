# CIRKD for SegformerHead: the tap precedes the head's Dropout2d, stride 4 gives 16 times the
# similarities of stride 8, hence 2x2 pooling, and the reference keeps 2000 pixels per class.
_base_ = './cirkd.py'
kd = dict(
    taps=dict(pixels='decode_head.fusion_conv.out'),
    losses=dict(p2p=dict(pool=2), memory=dict(pixel_size=2000)),
)
