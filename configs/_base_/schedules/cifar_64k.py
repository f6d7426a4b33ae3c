"""He et al. 2016, section 4.2: 64,000 iterations, batch size 128, learning rate 0.1, divided by 10 at 32,000
and 48,000 iterations.
"""

optimizer = dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4, base_batch_size=128)
schedule = dict(type="step", milestones=[32_000, 48_000], gamma=0.1)
train = dict(iterations=64_000, eval_every=2_000, save_every=2_000, save_best="top1", log_every=100)
