"""SGD with the "poly" learning-rate schedule (Chen et al. 2018, DeepLab, section 4.1) and batch size 16.

The settings are MMSegmentation's: the learning rate decays from 0.01 to 0.0001 with power 0.9. Configs that inherit
from this file may set another `train.iterations`.
"""

optimizer = dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=5e-4, base_batch_size=16)
schedule = dict(type="poly", power=0.9, min_factor=0.01)
train = dict(
    iterations=80_000, eval_every=8_000, save_every=8_000, save_best="mIoU", sync_bn=True, channels_last="auto"
)
