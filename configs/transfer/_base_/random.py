# A backbone that starts from nothing: no stage may stay frozen as it was drawn, and the statistics
# that the stock configs keep from the file are estimated, over the images of all GPUs.
from_scratch = dict(
    init_cfg=None,
    frozen_stages=-1,
    norm_cfg=dict(type='SyncBN', requires_grad=True),
    norm_eval=False,
)
