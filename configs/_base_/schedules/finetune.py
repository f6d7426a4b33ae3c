"""Fine-tuning of a detector that was trained on other data (`--load-from`): 4 epochs at learning rate 0.002, a
tenth of the 1x schedule's for R-CNNs. The stem and the first two stages of the backbone are frozen. In `_base_`, list
this file after a config with a 1x schedule.
"""

model = dict(backbone=dict(frozen_stages=2))
optimizer = dict(lr=0.002)
schedule = dict(milestones=[3], warmup_iters=100)
train = dict(epochs=4)
