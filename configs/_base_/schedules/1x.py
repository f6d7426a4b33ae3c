"""MMDetection's "1x" (its `schedule_1x.py`): 12 epochs of COCO, batch size 16, learning rate 0.02, divided by 10 after
epochs 8 and 11, with 500 iterations of warm-up.

Detectron2's 1x is 90,000 iterations (12.3 epochs), with learning-rate drops at 60,000 and 80,000.
"""

optimizer = dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=1e-4, base_batch_size=16)
schedule = dict(type="step", milestones=[8, 11], gamma=0.1, warmup_iters=500, warmup_factor=0.001)
train = dict(epochs=12, channels_last="auto", save_best="bbox_AP")
