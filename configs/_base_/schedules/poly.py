"""Iterations with the "poly" learning-rate schedule (Chen et al. 2018, DeepLab, section 4.1), at a batch size of 16.

MMSegmentation's settings: SGD with learning rate 0.01, which decays to 0.0001 with power 0.9. A config sets
`train.iterations`.
"""

optimizer = dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=5e-4, base_batch_size=16)
schedule = dict(type="poly", power=0.9, min_factor=0.01)
train = dict(
    iterations=80_000, eval_every=8_000, save_every=8_000, save_best="mIoU", sync_bn=True, channels_last="auto"
)
