# SP (arXiv 1907.09682): similarities of the images of a batch, by the maps that are pooled. The
# weight is that of RepDistiller's benchmark, 3000 for the mean over pairs of 64 images: 3000 / 64
# for the sum over an image's pairs, at any batch size.
kd = dict(
    taps=dict(last='neck.in[-1]'),
    losses=dict(sp=dict(type='SPLoss', on='last', reduction='rows', weight=46.875)),
)
